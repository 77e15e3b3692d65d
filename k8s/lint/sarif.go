// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
)

// What follows is the part of SARIF 2.1.0 (OASIS Standard, 27 March 2020) that WriteSARIF uses, under its names.

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool       sarifTool     `json:"tool"`
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	InformationURI string      `json:"informationUri"`
	Version        string      `json:"version,omitempty"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string       `json:"id"`
	ShortDescription sarifText    `json:"shortDescription"`
	FullDescription  sarifText    `json:"fullDescription"`
	Help             sarifText    `json:"help"`
	Default          sarifDefault `json:"defaultConfiguration"`
}

type sarifDefault struct {
	Level Severity `json:"level"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID       string            `json:"ruleId"`
	RuleIndex    int               `json:"ruleIndex"`
	Level        Severity          `json:"level"`
	Message      sarifText         `json:"message"`
	Locations    []sarifLocation   `json:"locations"`
	Fingerprints map[string]string `json:"partialFingerprints"`
}

type sarifLocation struct {
	Physical *sarifPhysical `json:"physicalLocation,omitempty"`
	Logical  []sarifLogical `json:"logicalLocations,omitempty"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   sarifRegion   `json:"region"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifLogical struct {
	Name          string `json:"name"`
	QualifiedName string `json:"fullyQualifiedName"`
	Kind          string `json:"kind"`
}

// WriteSARIF writes a report as a SARIF 2.1.0 log of one run: rules with their help, and each finding with its file, its
// line and, as logical location, object and field. Files are named relative to where dir is relative to; version is that of
// weir. A finding's fingerprint depends on rule, object and field, not on the line.
func WriteSARIF(w io.Writer, r *Report, dir, version string) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "weir lint", InformationURI: "https://github.com/weirnet/weir", Version: version}
	index := map[string]int{}
	for i, rule := range Rules() {
		index[rule.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{ID: rule.ID, ShortDescription: sarifText{rule.Summary + "."},
			FullDescription: sarifText{rule.Help}, Help: sarifText{rule.Help}, Default: sarifDefault{rule.Severity}})
	}
	times := map[string]int{}
	for i := range r.Findings {
		f := &r.Findings[i]
		key := fmt.Sprintf("%q", []string{f.Rule, f.Object, f.Path})
		times[key]++
		run.Results = append(run.Results, sarifResult{RuleID: f.Rule, RuleIndex: index[f.Rule], Level: f.Severity, Message: sarifText{f.Text()},
			Locations: []sarifLocation{location(f, dir)}, Fingerprints: map[string]string{"weirLint/v1": fingerprint(key, times[key])}})
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	log := sarifLog{Schema: "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
	if err := encoder.Encode(log); err != nil {
		return fmt.Errorf("write SARIF: %w", err)
	}
	return nil
}

func location(f *Finding, dir string) sarifLocation {
	var l sarifLocation
	if f.File != "" {
		l.Physical = &sarifPhysical{Artifact: sarifArtifact{fileURI(filepath.Join(dir, f.File))}, Region: sarifRegion{max(1, f.Line)}}
	}
	if f.Object != "" {
		full, short, kind := f.Object, f.Object[strings.LastIndexAny(f.Object, "/ ")+1:], "object"
		if f.Path != "" {
			full, short, kind = full+" "+f.Path, f.Path[strings.LastIndex(f.Path, ".")+1:], "property"
		}
		l.Logical = []sarifLogical{{Name: short, QualifiedName: full, Kind: kind}}
	}
	return l
}

// fileURI is a path as a URI reference (RFC 3986).
func fileURI(path string) string {
	u := url.URL{Path: filepath.ToSlash(path)}
	if filepath.IsAbs(path) {
		u.Scheme = "file"
	}
	return u.String()
}

// fingerprint tells findings apart by what they are about, and those about the same by their order.
func fingerprint(key string, time int) string {
	sum := sha256.Sum256(fmt.Append(nil, key, time))
	return hex.EncodeToString(sum[:16])
}

// Text is the finding with the object and the field it is about: "OBJECT: PATH: MESSAGE".
func (f *Finding) Text() string {
	text := f.Message
	if f.Path != "" {
		text = f.Path + ": " + text
	}
	if f.Object != "" {
		text = f.Object + ": " + text
	}
	return text
}
