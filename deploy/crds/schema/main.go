// SPDX-License-Identifier: Apache-2.0

// Command schema writes the CustomResourceDefinitions of the cilium.io kinds. They are our own: what they refuse is what the
// agent would refuse (package k8s), and fields that it cannot enforce are in them all the same, so that they reach it, which
// isolates and reports. A test compares them with package k8s, document by document.
//
// It is a module of its own: the API server's validation, which the test runs, is none of the agent's dependencies.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := write(".."); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	for path, crd := range files() {
		text, err := format(crd)
		if err != nil {
			return fmt.Errorf("format %s: %w", path, err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), text, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

func files() map[string]*apiextensionsv1.CustomResourceDefinition {
	return map[string]*apiextensionsv1.CustomResourceDefinition{
		"cilium.io_ciliumnetworkpolicies.yaml":            networkPolicy(),
		"cilium.io_ciliumclusterwidenetworkpolicies.yaml": clusterwideNetworkPolicy(),
		"cilium.io_ciliumcidrgroups.yaml":                 cidrGroup(),
	}
}

const head = "# SPDX-License-Identifier: Apache-2.0\n# Written by deploy/crds/schema (make crds). Not edited by hand.\n"

func format(crd *apiextensionsv1.CustomResourceDefinition) ([]byte, error) {
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(crd)
	if err != nil {
		return nil, err
	}
	delete(tree, "status")
	delete(tree["metadata"].(map[string]any), "creationTimestamp")
	text, err := yaml.Marshal(tree)
	if err != nil {
		return nil, err
	}
	return append([]byte(head), bytes.TrimSpace(text)...), nil
}

// definition is a CRD of the group cilium.io, of one version.
func definition(names apiextensionsv1.CustomResourceDefinitionNames, scope apiextensionsv1.ResourceScope, root apiextensionsv1.JSONSchemaProps,
	columns ...apiextensionsv1.CustomResourceColumnDefinition) *apiextensionsv1.CustomResourceDefinition {
	names.ListKind, names.Categories = names.Kind+"List", []string{"cilium", "ciliumpolicy"}
	columns = append(columns, apiextensionsv1.CustomResourceColumnDefinition{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"})
	return &apiextensionsv1.CustomResourceDefinition{
		TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{
			Name: names.Plural + ".cilium.io",
			// The operator writes conditions where the kinds are ours, which it sees by this label.
			Labels: map[string]string{"app.kubernetes.io/name": "weir"},
		},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "cilium.io", Names: names, Scope: scope,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v2", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root},
				Subresources:             &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				AdditionalPrinterColumns: columns,
			}},
		},
	}
}

// enforced are the columns of kubectl get that say what became of a policy.
func enforced() []apiextensionsv1.CustomResourceColumnDefinition {
	const condition = `.status.conditions[?(@.type=="Enforced")]`
	return []apiextensionsv1.CustomResourceColumnDefinition{
		{Name: "Enforced", Type: "string", JSONPath: condition + ".status", Description: "Whether every node enforces this generation as it is written"},
		{Name: "Reason", Type: "string", JSONPath: condition + ".reason"},
		{Name: "Nodes", Type: "string", JSONPath: condition + ".message", Priority: 1, Description: "On how many nodes, and what is the matter on others"},
	}
}

func networkPolicy() *apiextensionsv1.CustomResourceDefinition {
	return definition(apiextensionsv1.CustomResourceDefinitionNames{
		Kind: "CiliumNetworkPolicy", Plural: "ciliumnetworkpolicies", Singular: "ciliumnetworkpolicy", ShortNames: []string{"cnp", "ciliumnp"},
	}, apiextensionsv1.NamespaceScoped, policyRoot(true), enforced()...)
}

func clusterwideNetworkPolicy() *apiextensionsv1.CustomResourceDefinition {
	return definition(apiextensionsv1.CustomResourceDefinitionNames{
		Kind: "CiliumClusterwideNetworkPolicy", Plural: "ciliumclusterwidenetworkpolicies", Singular: "ciliumclusterwidenetworkpolicy", ShortNames: []string{"ccnp"},
	}, apiextensionsv1.ClusterScoped, policyRoot(false), enforced()...)
}

// cidrGroup is served in the version before, too, as Cilium does.
func cidrGroup() *apiextensionsv1.CustomResourceDefinition {
	root := object("Prefixes under a name and labels, by which policies find them.", props{
		"spec": required(object("What the group consists of.", props{
			"externalCIDRs": required(list("Its prefixes; [] is a group of nothing.", prefix("A prefix."))),
		})),
	})
	crd := definition(apiextensionsv1.CustomResourceDefinitionNames{
		Kind: "CiliumCIDRGroup", Plural: "ciliumcidrgroups", Singular: "ciliumcidrgroup", ShortNames: []string{"ccg"},
	}, apiextensionsv1.ClusterScoped, root)
	crd.Spec.Names.Categories = []string{"cilium"}
	version := &crd.Spec.Versions[0]
	version.Subresources = nil
	old := *version.DeepCopy()
	old.Name, old.Storage, old.Deprecated = "v2alpha1", false, true
	crd.Spec.Versions = append(crd.Spec.Versions, old)
	return crd
}
