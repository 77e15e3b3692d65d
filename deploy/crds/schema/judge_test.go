// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	fielderrors "k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// judge refuses objects of one kind as the API server does with strict field validation.
type judge struct {
	structural *structural.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// internal is a CRD as the API server stores it.
func internal(t testing.TB, crd *apiextensionsv1.CustomResourceDefinition) *apiextensions.CustomResourceDefinition {
	t.Helper()
	crd = crd.DeepCopy()
	apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	var out apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, &out, nil); err != nil {
		t.Fatal(err)
	}
	out.Status.StoredVersions = []string{"v2"}
	return &out
}

// The API server takes the definitions: structural, and within the budget of their rules.
func TestDefinitionsAreAdmitted(t *testing.T) {
	for path, crd := range files() {
		for _, err := range crdvalidation.ValidateCustomResourceDefinition(t.Context(), internal(t, crd)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func newJudge(t testing.TB, crd *apiextensionsv1.CustomResourceDefinition) *judge {
	t.Helper()
	in := internal(t, crd)
	openAPI := in.Spec.Validation
	if openAPI == nil {
		openAPI = in.Spec.Versions[0].Schema
	}
	s, err := structural.NewStructural(openAPI.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := validation.NewSchemaValidator(openAPI.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return &judge{s, v, cel.NewValidator(s, true, celconfig.PerCallLimit)}
}

func (j *judge) refuse(t testing.TB, object map[string]any) (out []string) {
	t.Helper()
	for _, path := range pruning.PruneWithOptions(object, j.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		out = append(out, "unknown field "+path)
	}
	errs := validation.ValidateCustomResource(nil, object, j.schema)
	out = append(out, messages(errs)...)
	if len(errs) == 0 {
		found, _ := j.rules.Validate(t.Context(), nil, j.structural, object, nil, celconfig.RuntimeCELCostBudget)
		out = append(out, messages(found)...)
	}
	return out
}

func messages(errs fielderrors.ErrorList) (out []string) {
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}
