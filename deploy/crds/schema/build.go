// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Schemas are written as values; the functions here are the words.

type schema = apiextensionsv1.JSONSchemaProps

// field is a schema as a property.
type field struct {
	schema
	required bool
}

type props map[string]field

func optional(s schema) field { return field{s, false} }
func required(s schema) field { return field{s, true} }

func object(about string, fields props, rules ...apiextensionsv1.ValidationRule) schema {
	s := schema{Type: "object", Description: about, Properties: map[string]schema{}, XValidations: rules}
	for name, f := range fields {
		s.Properties[name] = f.schema
		if f.required {
			s.Required = append(s.Required, name)
		}
	}
	slices.Sort(s.Required)
	return s
}

func list(about string, item schema) schema {
	return schema{Type: "array", Description: about, Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &item}}
}

func atMost(n int64, s schema) schema {
	s.MaxItems = &n
	return s
}

func text(about string) schema { return schema{Type: "string", Description: about} }

func matching(about, pattern string, longest int64) schema {
	return schema{Type: "string", Description: about, Pattern: pattern, MaxLength: &longest}
}

func nonempty(s schema) schema {
	one := int64(1)
	s.MinLength = &one
	return s
}

func oneOf(about string, values ...string) schema {
	s := text(about)
	for _, v := range values {
		s.Enum = append(s.Enum, apiextensionsv1.JSON{Raw: []byte(`"` + v + `"`)})
	}
	return s
}

func integer(about string, least, most float64) schema {
	return schema{Type: "integer", Description: about, Minimum: &least, Maximum: &most}
}

func flag(about string) schema { return schema{Type: "boolean", Description: about} }

// prefix is an address with a mask.
func prefix(about string) schema { return schema{Type: "string", Description: about, Format: "cidr"} }

func texts(about string, value schema) schema {
	return schema{Type: "object", Description: about, AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &value}}
}

// anything keeps whatever is there.
func anything(about string) schema {
	yes := true
	return schema{Type: "object", Description: about, XPreserveUnknownFields: &yes}
}

// exactlyOne demands one of the fields and refuses two. It costs nothing of the budget that rules have.
func exactlyOne(s schema, fields ...string) schema {
	for _, f := range fields {
		s.OneOf = append(s.OneOf, schema{Required: []string{f}})
	}
	return s
}

// demand is a rule in CEL (https://kubernetes.io/docs/reference/using-api/cel/) that an object must meet, and what it is told if not.
func demand(rule, message, at string) apiextensionsv1.ValidationRule {
	return apiextensionsv1.ValidationRule{Rule: rule, Message: message, FieldPath: at}
}

// silent is s without descriptions: what says the same elsewhere need not say it twice.
func silent(s schema) schema {
	s.Description = ""
	for name, p := range s.Properties {
		s.Properties[name] = silent(p)
	}
	if s.Items != nil && s.Items.Schema != nil {
		s.Items = &apiextensionsv1.JSONSchemaPropsOrArray{Schema: ptr(silent(*s.Items.Schema))}
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		s.AdditionalProperties = &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: ptr(silent(*s.AdditionalProperties.Schema))}
	}
	return s
}

// when demands then of what meets condition. In place of a rule it costs nothing of the budget. then comes first: its failure
// is the one that is told.
func when(condition, then schema) schema { return schema{AnyOf: []schema{then, {Not: &condition}}} }
