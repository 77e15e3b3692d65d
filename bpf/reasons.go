// SPDX-License-Identifier: Apache-2.0

package bpf

import "strconv"

// The enums of reasons.h under Go names. A test compares them, and their texts, with the type information of the object.

// Hook is where in a packet's way a program stands.
type Hook = mapsHook

// Hooks.
const (
	HookUnderlayRx = mapsHookHOOK_UNDERLAY_RX
	HookPodTx      = mapsHookHOOK_POD_TX
	HookPodRx      = mapsHookHOOK_POD_RX
	HookOverlayTx  = mapsHookHOOK_OVERLAY_TX
	HookCount      = mapsHookHOOK_COUNT
)

// HookName is the name that metrics, events and ARCHITECTURE.md use.
func HookName(v Hook) string {
	return name(hookNames[:], uint32(v))
}

var hookNames = [...]string{
	HookUnderlayRx: "underlay_rx",
	HookPodTx:      "pod_tx",
	HookPodRx:      "pod_rx",
	HookOverlayTx:  "overlay_tx",
}

// Direction is the direction of a policy, seen from the pod that it guards.
type Direction = mapsDirection

// Directions.
const (
	DirectionIngress = mapsDirectionDIRECTION_INGRESS
	DirectionEgress  = mapsDirectionDIRECTION_EGRESS
	DirectionCount   = mapsDirectionDIRECTION_COUNT
)

// DirectionName is the name that metrics, events and ARCHITECTURE.md use.
func DirectionName(v Direction) string {
	return name(directionNames[:], uint32(v))
}

var directionNames = [...]string{
	DirectionIngress: "ingress",
	DirectionEgress:  "egress",
}

// Verdict is what became of a packet at a hook.
type Verdict = mapsVerdict

// Verdicts.
const (
	VerdictPass    = mapsVerdictVERDICT_PASS
	VerdictDrop    = mapsVerdictVERDICT_DROP
	VerdictObserve = mapsVerdictVERDICT_OBSERVE
	VerdictAudit   = mapsVerdictVERDICT_AUDIT
	VerdictCount   = mapsVerdictVERDICT_COUNT
)

// VerdictName is the name that metrics, events and ARCHITECTURE.md use.
func VerdictName(v Verdict) string {
	return name(verdictNames[:], uint32(v))
}

var verdictNames = [...]string{
	VerdictPass:    "pass",
	VerdictDrop:    "drop",
	VerdictObserve: "observe",
	VerdictAudit:   "audit",
}

// Reason says why; each packet leaves each hook with exactly one.
type Reason = mapsReason

// Reasons.
const (
	ReasonNone            = mapsReasonREASON_NONE
	ReasonAllowed         = mapsReasonREASON_ALLOWED
	ReasonNotIsolated     = mapsReasonREASON_NOT_ISOLATED
	ReasonReply           = mapsReasonREASON_REPLY
	ReasonRelated         = mapsReasonREASON_RELATED
	ReasonGrace           = mapsReasonREASON_GRACE
	ReasonSelf            = mapsReasonREASON_SELF
	ReasonService         = mapsReasonREASON_SERVICE
	ReasonServiceMixed    = mapsReasonREASON_SERVICE_MIXED
	ReasonDeniedDefault   = mapsReasonREASON_DENIED_DEFAULT
	ReasonDeniedRule      = mapsReasonREASON_DENIED_RULE
	ReasonRevoked         = mapsReasonREASON_REVOKED
	ReasonDeniedService   = mapsReasonREASON_DENIED_SERVICE
	ReasonFragment        = mapsReasonREASON_FRAGMENT
	ReasonIPv6            = mapsReasonREASON_IPV6
	ReasonNotIPIsolated   = mapsReasonREASON_NOT_IP_ISOLATED
	ReasonNoImage         = mapsReasonREASON_NO_IMAGE
	ReasonHandedUp        = mapsReasonREASON_HANDED_UP
	ReasonToHost          = mapsReasonREASON_TO_HOST
	ReasonTransit         = mapsReasonREASON_TRANSIT
	ReasonUntouched       = mapsReasonREASON_UNTOUCHED
	ReasonNotIP           = mapsReasonREASON_NOT_IP
	ReasonForeignVNI      = mapsReasonREASON_FOREIGN_VNI
	ReasonUnknownEndpoint = mapsReasonREASON_UNKNOWN_ENDPOINT
	ReasonUnknownVTEP     = mapsReasonREASON_UNKNOWN_VTEP
	ReasonSpoofedMAC      = mapsReasonREASON_SPOOFED_MAC
	ReasonSpoofedInner    = mapsReasonREASON_SPOOFED_INNER
	ReasonUntunnelled     = mapsReasonREASON_UNTUNNELLED
	ReasonTunnelStray     = mapsReasonREASON_TUNNEL_STRAY
	ReasonOuterFragment   = mapsReasonREASON_OUTER_FRAGMENT
	ReasonOuterTags       = mapsReasonREASON_OUTER_TAGS
	ReasonVXLANMalformed  = mapsReasonREASON_VXLAN_MALFORMED
	ReasonInnerMalformed  = mapsReasonREASON_INNER_MALFORMED
	ReasonInnerMartian    = mapsReasonREASON_INNER_MARTIAN
	ReasonInnerMAC        = mapsReasonREASON_INNER_MAC
	ReasonInnerNotIPv4    = mapsReasonREASON_INNER_NOT_IPV4
	ReasonInnerTags       = mapsReasonREASON_INNER_TAGS
	ReasonSpoofedLocal    = mapsReasonREASON_SPOOFED_LOCAL
	ReasonNestedTunnel    = mapsReasonREASON_NESTED_TUNNEL
	ReasonMalformed       = mapsReasonREASON_MALFORMED
	ReasonSpoofedSource   = mapsReasonREASON_SPOOFED_SOURCE
	ReasonTunnelFromPod   = mapsReasonREASON_TUNNEL_FROM_POD
	ReasonPodTags         = mapsReasonREASON_POD_TAGS
	ReasonNoHeadroom      = mapsReasonREASON_NO_HEADROOM
	ReasonCount           = mapsReasonREASON_COUNT
)

// ReasonName is the name that metrics, events and ARCHITECTURE.md use.
func ReasonName(v Reason) string {
	return name(reasonNames[:], uint32(v))
}

var reasonNames = [...]string{
	ReasonNone:            "none",
	ReasonAllowed:         "allowed",
	ReasonNotIsolated:     "not_isolated",
	ReasonReply:           "reply",
	ReasonRelated:         "related",
	ReasonGrace:           "grace",
	ReasonSelf:            "self",
	ReasonService:         "service",
	ReasonServiceMixed:    "service_mixed",
	ReasonDeniedDefault:   "denied_default",
	ReasonDeniedRule:      "denied_rule",
	ReasonRevoked:         "revoked",
	ReasonDeniedService:   "denied_service",
	ReasonFragment:        "fragment",
	ReasonIPv6:            "ipv6",
	ReasonNotIPIsolated:   "not_ip_isolated",
	ReasonNoImage:         "no_image",
	ReasonHandedUp:        "handed_up",
	ReasonToHost:          "to_host",
	ReasonTransit:         "transit",
	ReasonUntouched:       "untouched",
	ReasonNotIP:           "not_ip",
	ReasonForeignVNI:      "foreign_vni",
	ReasonUnknownEndpoint: "unknown_endpoint",
	ReasonUnknownVTEP:     "unknown_vtep",
	ReasonSpoofedMAC:      "spoofed_mac",
	ReasonSpoofedInner:    "spoofed_inner",
	ReasonUntunnelled:     "untunnelled",
	ReasonTunnelStray:     "tunnel_stray",
	ReasonOuterFragment:   "outer_fragment",
	ReasonOuterTags:       "outer_tags",
	ReasonVXLANMalformed:  "vxlan_malformed",
	ReasonInnerMalformed:  "inner_malformed",
	ReasonInnerMartian:    "inner_martian",
	ReasonInnerMAC:        "inner_mac",
	ReasonInnerNotIPv4:    "inner_not_ipv4",
	ReasonInnerTags:       "inner_tags",
	ReasonSpoofedLocal:    "spoofed_local",
	ReasonNestedTunnel:    "nested_tunnel",
	ReasonMalformed:       "malformed",
	ReasonSpoofedSource:   "spoofed_source",
	ReasonTunnelFromPod:   "tunnel_from_pod",
	ReasonPodTags:         "pod_tags",
	ReasonNoHeadroom:      "no_headroom",
}

func name(names []string, v uint32) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown_" + strconv.FormatUint(uint64(v), 10)
}
