// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
)

// sarifSchema is what SARIF 2.1.0 asks of the objects that we write: properties that must be there, and properties that may
// be. "a.b" is the property b of the object that a leads to; [] stands for every item of a list.
func sarifSchema() map[string]struct{ must, may []string } {
	return map[string]struct{ must, may []string }{
		"":                                {must: []string{"version", "runs"}, may: []string{"$schema"}},
		"runs[]":                          {must: []string{"tool"}, may: []string{"results", "columnKind"}},
		"runs[].tool":                     {must: []string{"driver"}},
		"runs[].tool.driver":              {must: []string{"name"}, may: []string{"informationUri", "version", "rules"}},
		"runs[].tool.driver.rules[]":      {must: []string{"id"}, may: []string{"shortDescription", "fullDescription", "help", "defaultConfiguration"}},
		"runs[].tool.driver.rules[].help": {must: []string{"text"}},
		"runs[].tool.driver.rules[].shortDescription":     {must: []string{"text"}},
		"runs[].tool.driver.rules[].fullDescription":      {must: []string{"text"}},
		"runs[].tool.driver.rules[].defaultConfiguration": {may: []string{"level"}},
		"runs[].results[]":                                               {must: []string{"message"}, may: []string{"ruleId", "ruleIndex", "level", "locations", "partialFingerprints"}},
		"runs[].results[].message":                                       {must: []string{"text"}},
		"runs[].results[].locations[]":                                   {may: []string{"physicalLocation", "logicalLocations"}},
		"runs[].results[].locations[].physicalLocation":                  {must: []string{"artifactLocation"}, may: []string{"region"}},
		"runs[].results[].locations[].physicalLocation.region":           {may: []string{"startLine"}},
		"runs[].results[].locations[].logicalLocations[]":                {may: []string{"name", "fullyQualifiedName", "kind"}},
		"runs[].results[].locations[].physicalLocation.artifactLocation": {may: []string{"uri"}},
	}
}

// valid walks a tree and names what the schema does not allow.
func valid(tree any, path string) []string {
	var bad []string
	switch node := tree.(type) {
	case map[string]any:
		schema, known := sarifSchema()[path]
		if !known {
			if path == "runs[].results[].partialFingerprints" {
				return nil // any names
			}
			return []string{path + ": unknown object"}
		}
		for _, name := range schema.must {
			if _, has := node[name]; !has {
				bad = append(bad, path+": "+name+" is missing")
			}
		}
		for name, value := range node {
			if !slices.Contains(schema.must, name) && !slices.Contains(schema.may, name) {
				bad = append(bad, path+": unknown property "+name)
			}
			inner := name
			if path != "" {
				inner = path + "." + name
			}
			bad = append(bad, valid(value, inner)...)
		}
	case []any:
		for _, item := range node {
			bad = append(bad, valid(item, path+"[]")...)
		}
	case nil:
		bad = append(bad, path+": is null")
	}
	return bad
}

// Every report of the rules' cases is valid SARIF 2.1.0 and leads to a rule with help, a file, a line and a field.
func TestSARIFIsValid(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	levels := []string{"note", "warning", "error"}
	for _, file := range files {
		for _, c := range scenarios(t, file) {
			report := lintFiles(t, c.files)
			var out bytes.Buffer
			if err := WriteSARIF(&out, report, "some dir/manifests", "v1"); err != nil {
				t.Fatal(err)
			}
			var tree any
			var log sarifLogAsRead
			if err := json.Unmarshal(out.Bytes(), &tree); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(out.Bytes(), &log); err != nil {
				t.Fatal(err)
			}
			for _, bad := range valid(tree, "") {
				t.Errorf("%s, %s: %s", file, c.name, bad)
			}
			run := log.Runs[0]
			if log.Version != "2.1.0" || len(log.Runs) != 1 || len(run.Results) != len(report.Findings) || len(run.Tool.Driver.Rules) != len(Rules()) {
				t.Fatalf("%s, %s: version %s, %d runs, %d results", file, c.name, log.Version, len(log.Runs), len(run.Results))
			}
			for i, result := range run.Results {
				rule := run.Tool.Driver.Rules[result.RuleIndex]
				l := result.Locations[0]
				if rule.ID != result.RuleID || rule.Help.Text == "" || !slices.Contains(levels, result.Level) || result.Message.Text == "" {
					t.Errorf("%s, %s: result %+v of rule %+v", file, c.name, result, rule)
				}
				u, err := url.Parse(l.Physical.Artifact.URI)
				if want := "some dir/manifests/" + report.Findings[i].File; err != nil || u.Path != want || u.Scheme != "" || l.Physical.Region.StartLine < 1 {
					t.Errorf("%s, %s: %s line %d, want %s", file, c.name, l.Physical.Artifact.URI, l.Physical.Region.StartLine, want)
				}
				if report.Findings[i].Object != "" && l.Logical[0].QualifiedName == "" {
					t.Errorf("%s, %s: result %d has no logical location", file, c.name, i)
				}
			}
		}
	}
}

// sarifLogAsRead reads what the writer's types write.
type sarifLogAsRead struct {
	Version string
	Runs    []struct {
		Tool    sarifToolAsRead
		Results []struct {
			RuleID    string `json:"ruleId"`
			RuleIndex int    `json:"ruleIndex"`
			Level     string
			Message   sarifText
			Locations []sarifLocation

			Fingerprints map[string]string `json:"partialFingerprints"`
		}
	}
}

type sarifToolAsRead struct {
	Driver struct {
		Rules []struct {
			ID   string
			Help sarifText
		}
	}
}

func TestSARIFNamesAbsoluteFilesByURI(t *testing.T) {
	for path, want := range map[string]string{
		"/a b/c.yaml": "file:///a%20b/c.yaml",
		"a/ü.yaml":    "a/%C3%BC.yaml",
		"c:d.yaml":    "./c:d.yaml",
	} {
		if got := fileURI(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// A finding keeps its fingerprint when its line moves, and findings of one report have different ones.
func TestFingerprintsDoNotDependOnLines(t *testing.T) {
	const policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}, ingress: [{fromEndpoints: []}, {fromEntities: []}]}\n"
	var prints [2][]string
	for i, text := range []string{policy, "# moved\n\n" + policy} {
		report := lintFiles(t, map[string]string{"a.yaml": text})
		report.Findings = append(report.Findings, report.Findings[0])
		var out bytes.Buffer
		var log sarifLogAsRead
		if err := errors.Join(WriteSARIF(&out, report, "", ""), json.Unmarshal(out.Bytes(), &log)); err != nil || len(log.Runs[0].Results) != 3 {
			t.Fatalf("%v: %d findings, want 2 and one of them again", err, len(log.Runs[0].Results))
		}
		for _, result := range log.Runs[0].Results {
			prints[i] = append(prints[i], result.Fingerprints["weirLint/v1"])
		}
	}
	if !slices.Equal(prints[0], prints[1]) {
		t.Errorf("fingerprints were %v and became %v", prints[0], prints[1])
	}
	slices.Sort(prints[0])
	if len(slices.Compact(prints[0])) != 3 {
		t.Errorf("two findings have the same fingerprint: %v", prints[1])
	}
}
