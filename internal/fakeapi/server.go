// SPDX-License-Identifier: Apache-2.0

// Package fakeapi is as much of a Kubernetes API server as a client that lists and watches sees: it holds objects in memory,
// answers lists, streams changes (from a resource version on, or after all there is), and can be made to fail in the ways
// that real ones do. It has no memory of what is longer ago than its log.
package fakeapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
)

// Server is the API server. Its methods may be called at any time.
type Server struct {
	codecs serializer.CodecFactory

	mu        sync.Mutex
	changed   *sync.Cond
	version   int64
	oldest    int64 // changes before it are forgotten
	resources map[string]*resource
	listening map[net.Listener]*http.Server
	broken    bool // answers nothing but errors
	streams   int  // counts up when every stream is to end
	noStreams bool // serves lists without streaming them
	requests  int
}

type resource struct {
	apiVersion, kind string
	objects          map[string]runtime.Object // by "namespace/name"
	log              []change
}

type change struct {
	version int64
	kind    watch.EventType
	object  runtime.Object
}

// New makes a server without objects that serves the built-in kinds that policy depends on.
func New() *Server {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	s := &Server{codecs: serializer.NewCodecFactory(scheme), version: 1000, resources: map[string]*resource{}, listening: map[net.Listener]*http.Server{}}
	s.changed = sync.NewCond(&s.mu)
	for path, kind := range map[string]string{
		"/api/v1/pods": "Pod", "/api/v1/namespaces": "Namespace", "/api/v1/nodes": "Node", "/api/v1/services": "Service",
		"/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice", "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition", "/apis/apps/v1/daemonsets": "DaemonSet",
	} {
		s.Define(path, kind)
	}
	return s
}

// Define begins to serve a kind under a path such as /apis/cilium.io/v2/ciliumnetworkpolicies.
func (s *Server) Define(path, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resources[path] == nil {
		version := strings.TrimPrefix(strings.TrimPrefix(path[:strings.LastIndex(path, "/")], "/apis/"), "/api/")
		s.resources[path] = &resource{apiVersion: version, kind: kind, objects: map[string]runtime.Object{}}
	}
}

// Serve answers at a listener until Stop.
func (s *Server) Serve(l net.Listener) {
	server := &http.Server{Handler: s}
	s.mu.Lock()
	s.listening[l] = server
	s.mu.Unlock()
	go server.Serve(l)
}

// Stop closes every listener and connection, as a machine does that fails.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, server := range s.listening {
		server.Close()
		delete(s.listening, l)
	}
	s.streams++
	s.changed.Broadcast()
}

// Break makes every request fail and ends every stream; until Mend.
func (s *Server) Break() { s.set(func() { s.broken, s.streams = true, s.streams+1 }) }

// Mend ends what Break began.
func (s *Server) Mend() { s.set(func() { s.broken = false }) }

// Hangup ends every stream.
func (s *Server) Hangup() { s.set(func() { s.streams++ }) }

// Forget makes every resource version until now too old to go on from.
func (s *Server) Forget() {
	s.set(func() {
		s.oldest = s.version + 1
		s.version++
		for _, r := range s.resources {
			r.log = nil
		}
	})
}

// NoStreams makes the server one that does not know how to stream a list.
func (s *Server) NoStreams() { s.set(func() { s.noStreams = true }) }

// Rewind takes resource versions back, as a restored backup does.
func (s *Server) Rewind(by int64) {
	s.set(func() {
		s.version -= by
		for _, r := range s.resources {
			r.log = nil
		}
	})
}

// Requests is how many have been answered.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

// Put adds or changes objects under a path.
func (s *Server) Put(path string, objects ...runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, object := range objects {
		r := s.resources[path]
		key := keyOf(object)
		kind := watch.Modified
		if r.objects[key] == nil {
			kind = watch.Added
		}
		s.version++
		object.(metav1.Object).SetResourceVersion(strconv.FormatInt(s.version, 10))
		r.objects[key] = object
		r.log = append(r.log, change{s.version, kind, object})
	}
	s.changed.Broadcast()
}

// Delete removes an object by its "namespace/name". With silent, nobody is told: as if it had happened while nobody watched.
func (s *Server) Delete(path, key string, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resources[path]
	object := r.objects[key]
	if object == nil {
		panic("delete " + key + ": there is none")
	}
	s.version++
	delete(r.objects, key)
	if !silent {
		gone := object.DeepCopyObject()
		gone.(metav1.Object).SetResourceVersion(strconv.FormatInt(s.version, 10))
		r.log = append(r.log, change{s.version, watch.Deleted, gone})
	}
	s.changed.Broadcast()
}

func keyOf(object runtime.Object) string {
	meta := object.(metav1.Object)
	if meta.GetNamespace() == "" {
		return meta.GetName()
	}
	return meta.GetNamespace() + "/" + meta.GetName()
}

// ServeHTTP answers a list or a watch.
func (s *Server) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	path, namespace := request.URL.Path, ""
	if before, after, ok := strings.Cut(path, "/namespaces/"); ok {
		if ns, resource, ok := strings.Cut(after, "/"); ok {
			path, namespace = before+"/"+resource, ns
		}
	}
	s.mu.Lock()
	s.requests++
	r, broken := s.resources[path], s.broken
	s.mu.Unlock()
	a := answer{server: s, resource: r, writer: w, namespace: namespace, proto: strings.Contains(request.Header.Get("Accept"), "protobuf"),
		partial: strings.Contains(request.Header.Get("Accept"), "as=PartialObjectMetadata")}
	query := request.URL.Query()
	switch {
	case broken:
		a.fail(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "broken")
	case r == nil:
		a.fail(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		a.watch(request, query.Get("resourceVersion"), query.Get("sendInitialEvents") == "true")
	default:
		a.list()
	}
}

// all are the objects under a path, in the order of their keys, and the version they are of.
func (s *Server) all(r *resource, namespace string) ([]runtime.Object, int64) {
	var out []runtime.Object
	for _, key := range slices.Sorted(maps.Keys(r.objects)) {
		if namespace == "" || strings.HasPrefix(key, namespace+"/") {
			out = append(out, r.objects[key])
		}
	}
	return out, s.version
}

// encodeJSON is an object as the API has it.
func (s *Server) encodeJSON(object runtime.Object, partial bool) ([]byte, error) {
	switch x := object.(type) {
	case *unstructured.Unstructured:
		if !partial {
			return x.MarshalJSON()
		}
		return json.Marshal(&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"},
			ObjectMeta: metav1.ObjectMeta{Name: x.GetName(), Namespace: x.GetNamespace(), Annotations: x.GetAnnotations(), ResourceVersion: x.GetResourceVersion()}})
	case *metav1.PartialObjectMetadata:
		copied := *x
		copied.APIVersion, copied.Kind = "meta.k8s.io/v1", "PartialObjectMetadata"
		return json.Marshal(&copied)
	}
	return s.encode(object, "application/json")
}

func (s *Server) encode(object runtime.Object, mediaType string) ([]byte, error) {
	info, ok := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		return nil, fmt.Errorf("encode as %s: unknown", mediaType)
	}
	return runtime.Encode(s.codecs.EncoderForVersion(info.Serializer, groupVersion(object)), object)
}

func groupVersion(object runtime.Object) runtime.GroupVersioner {
	switch object.(type) {
	case *discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList:
		return discoveryv1.SchemeGroupVersion
	case *networkingv1.NetworkPolicy, *networkingv1.NetworkPolicyList:
		return networkingv1.SchemeGroupVersion
	}
	return corev1.SchemeGroupVersion
}
