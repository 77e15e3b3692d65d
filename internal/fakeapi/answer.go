// SPDX-License-Identifier: Apache-2.0

package fakeapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// answer is one request's.
type answer struct {
	server    *Server
	resource  *resource
	writer    http.ResponseWriter
	namespace string
	proto     bool // the client takes the compact encoding, where there is one
	partial   bool // the client wants metadata only
}

func (a *answer) fail(code int32, reason metav1.StatusReason, message string) {
	status := metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}
	a.writer.Header().Set("Content-Type", "application/json")
	a.writer.WriteHeader(int(code))
	json.NewEncoder(a.writer).Encode(status)
}

func (a *answer) list() {
	s := a.server
	s.mu.Lock()
	objects, version := s.all(a.resource, a.namespace)
	s.mu.Unlock()
	items := make([]json.RawMessage, len(objects))
	for i, object := range objects {
		data, err := s.encodeJSON(object, a.partial)
		if err != nil {
			a.fail(http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
			return
		}
		items[i] = data
	}
	list := map[string]any{"apiVersion": a.resource.apiVersion, "kind": a.resource.kind + "List"}
	if a.partial {
		list["apiVersion"], list["kind"] = "meta.k8s.io/v1", "PartialObjectMetadataList"
	}
	list["metadata"] = map[string]any{"resourceVersion": strconv.FormatInt(version, 10)}
	list["items"] = items
	a.writer.Header().Set("Content-Type", "application/json")
	json.NewEncoder(a.writer).Encode(list)
}

// watch streams changes: those after a version, or after all that there is.
func (a *answer) watch(request *http.Request, from string, all bool) {
	s := a.server
	after, _ := strconv.ParseInt(from, 10, 64)
	s.mu.Lock()
	stream, oldest, noStreams, now := s.streams, s.oldest, s.noStreams, s.version
	s.mu.Unlock()
	switch {
	case all && noStreams:
		a.fail(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden")
		return
	case after > now:
		a.fail(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "Too large resource version")
		return
	case after > 0 && after < oldest && !all:
		a.fail(http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
		return
	}
	a.writer.Header().Set("Content-Type", a.mediaType())
	a.writer.WriteHeader(http.StatusOK)
	flush := a.writer.(http.Flusher)
	flush.Flush()
	s.mu.Lock()
	var first []change
	if all || after == 0 {
		objects, version := s.all(a.resource, a.namespace)
		for _, object := range objects {
			first = append(first, change{version, watch.Added, object})
		}
		after = version
	}
	s.mu.Unlock()
	for _, c := range first {
		if a.send(c) != nil {
			return
		}
	}
	if all && a.bookmark(after) != nil {
		return
	}
	flush.Flush()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-request.Context().Done():
			s.set(func() {})
		case <-stop:
		}
	}()
	at := 0
	for {
		s.mu.Lock()
		for at >= len(a.resource.log) && s.streams == stream && request.Context().Err() == nil {
			s.changed.Wait()
		}
		ended := s.streams != stream || request.Context().Err() != nil
		var news []change
		if at > len(a.resource.log) {
			at = 0
		}
		news = append(news, a.resource.log[at:]...)
		at = len(a.resource.log)
		s.mu.Unlock()
		if ended {
			return
		}
		for _, c := range news {
			if c.version > after {
				if a.send(c) != nil {
					return
				}
				after = c.version
			}
		}
		flush.Flush()
	}
}

func (a *answer) mediaType() string {
	if a.compact() {
		return "application/vnd.kubernetes.protobuf;stream=watch"
	}
	return "application/json"
}

// compact says whether the kind has the compact encoding.
func (a *answer) compact() bool {
	return a.proto && !a.partial && a.resource.builtIn()
}

// builtIn says whether the kind is one whose types are known here.
func (r *resource) builtIn() bool {
	switch r.kind {
	case "Pod", "Namespace", "Node", "Service", "EndpointSlice", "NetworkPolicy":
		return true
	}
	return false
}

// bookmark says that all there is has been streamed. It is an object of the kind that is watched.
func (a *answer) bookmark(version int64) error {
	var mark runtime.Object
	for object, kind := range map[runtime.Object]string{&corev1.Pod{}: "Pod", &corev1.Namespace{}: "Namespace", &corev1.Node{}: "Node", &corev1.Service{}: "Service",
		&discoveryv1.EndpointSlice{}: "EndpointSlice", &networkingv1.NetworkPolicy{}: "NetworkPolicy"} {
		if kind == a.resource.kind {
			mark = object
		}
	}
	if mark == nil {
		custom := &unstructured.Unstructured{Object: map[string]any{}}
		custom.SetAPIVersion(a.resource.apiVersion)
		custom.SetKind(a.resource.kind)
		mark = custom
	}
	meta := mark.(metav1.Object)
	meta.SetResourceVersion(strconv.FormatInt(version, 10))
	meta.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return a.send(change{version, watch.Bookmark, mark})
}

func (a *answer) send(c change) error {
	if a.writer.Header().Get("Content-Type") != "application/json" {
		return a.sendCompact(c)
	}
	data, err := a.server.encodeJSON(c.object, a.partial)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.writer, `{"type":%q,"object":%s}`+"\n", c.kind, data)
	return err
}

func (a *answer) sendCompact(c change) error {
	const mediaType = "application/vnd.kubernetes.protobuf"
	data, err := a.server.encode(c.object, mediaType)
	if err != nil {
		return err
	}
	info, _ := runtime.SerializerInfoForMediaType(a.server.codecs.SupportedMediaTypes(), mediaType)
	frames := info.StreamSerializer.Framer.NewFrameWriter(a.writer)
	return info.StreamSerializer.Serializer.Encode(&metav1.WatchEvent{Type: string(c.kind), Object: runtime.RawExtension{Raw: data}}, frames)
}
