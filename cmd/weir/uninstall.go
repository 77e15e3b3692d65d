// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/weirnet/weir/k8s"
	nodestatus "github.com/weirnet/weir/k8s/status"
)

const uninstallHelp = `Usage: weir uninstall [--namespace NS] [--timeout DURATION] [flags]

Takes weir off all nodes of a cluster: tells the agents to, by an annotation of their DaemonSet, and waits until each has
removed its plugin, its programs and its tables and says so. Nothing is enforced any more after that. The agents idle until
the DaemonSet is deleted. helm uninstall runs this first.

A node whose agent does not answer is named. Run "weir agent cleanup" there, or delete the Node if it is gone for good.

Flags:
`

const uninstallPoll = time.Second

// runUninstall is the verb uninstall. Exit code 0 when every node is clean, 1 if one is not when time is up.
func runUninstall(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("weir uninstall", flag.ContinueOnError)
	set.SetOutput(helpOutput(args, stdout, stderr))
	set.Usage = func() {
		fmt.Fprint(set.Output(), uninstallHelp)
		set.PrintDefaults()
	}
	kubeconfig := set.String("kubeconfig", "", "`FILE` that says how to reach the API server; default: as a pod of the cluster does")
	namespace := set.String("namespace", "kube-system", "`NAMESPACE` of the agents")
	name := set.String("daemonset", "weir", "`NAME` of the agents' DaemonSet")
	timeout := set.Duration("timeout", 5*time.Minute, "how long to wait for the nodes, `DURATION`")
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
		fmt.Fprintf(stderr, "weir uninstall: %v\n", err)
	}
	if err != nil {
		return exitUsage
	}
	if *kubeconfig == "" {
		*kubeconfig = os.Getenv("KUBECONFIG")
	}
	api, err := k8s.APIConfig(*kubeconfig, "weir/"+version())
	if err != nil {
		fmt.Fprintf(stderr, "weir uninstall: %v\n", err)
		return exitFailed
	}
	client, err := dynamic.NewForConfig(api)
	if err != nil {
		fmt.Fprintf(stderr, "weir uninstall: connect to the API server: %v\n", err)
		return exitFailed
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	u := uninstall{api: client, namespace: *namespace, name: *name, poll: uninstallPoll, out: stdout}
	if err := u.run(ctx); err != nil {
		fmt.Fprintf(stderr, "weir uninstall: %v\n", err)
		return exitFailed
	}
	return exitFine
}

// uninstall takes weir off the nodes that a DaemonSet's agents are on.
type uninstall struct {
	api             dynamic.Interface
	namespace, name string
	poll            time.Duration
	out             io.Writer
}

var errNodesLeft = errors.New("nodes are not clean")

// run is idempotent: nodes that are clean already stay so. Without a DaemonSet there is nothing to do.
func (u *uninstall) run(ctx context.Context) error {
	selector, err := u.annotate(ctx)
	for err != nil && passing(err) && ctx.Err() == nil { // an API server that is away comes back
		time.Sleep(u.poll)
		selector, err = u.annotate(ctx)
	}
	if apierrors.IsNotFound(err) {
		fmt.Fprintf(u.out, "there is no DaemonSet %s/%s: nothing to uninstall\n", u.namespace, u.name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("annotate DaemonSet %s/%s: %w", u.namespace, u.name, err)
	}
	said := ""
	for {
		left, all, err := u.left(ctx, selector)
		if err == nil && len(left) == 0 {
			fmt.Fprintf(u.out, "all %d nodes are clean\n", all)
			return nil
		}
		if err == nil {
			if text := fmt.Sprintf("%d of %d nodes are clean; waiting for %s", all-len(left), all, abridged(left)); text != said {
				said = text
				fmt.Fprintln(u.out, text)
			}
		}
		select {
		case <-time.After(u.poll):
		case <-ctx.Done():
			if err != nil && !errors.Is(err, ctx.Err()) {
				return fmt.Errorf("wait for the nodes: %w", err)
			}
			return fmt.Errorf("wait for the nodes: %w in time: %s; run weir agent cleanup there", errNodesLeft, strings.Join(left, ", "))
		}
	}
}

// passing says whether what the API server refuses now it may grant later.
func passing(err error) bool {
	return !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsInvalid(err)
}

// abridged names the first of many.
func abridged(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

var (
	daemonSetResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	podResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// annotate tells the agents, and returns the selector of their pods.
func (u *uninstall) annotate(ctx context.Context) (string, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{k8s.UninstallAnnotation: "true"}}})
	if err != nil {
		return "", err
	}
	object, err := u.api.Resource(daemonSetResource).Namespace(u.namespace).Patch(ctx, u.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "weir-uninstall"})
	if err != nil {
		return "", err
	}
	var set struct {
		Spec struct {
			Selector metav1.LabelSelector `json:"selector"`
		} `json:"spec"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &set); err != nil {
		return "", err
	}
	selector, err := metav1.LabelSelectorAsSelector(&set.Spec.Selector)
	if err != nil {
		return "", err
	}
	return selector.String(), nil
}

// left are the nodes that have an agent and are not clean, and all how many have one. An agent that never started has nothing to
// clean, unless one before it has left something: then there is a WeirNode.
func (u *uninstall) left(ctx context.Context, selector string) (left []string, all int, err error) {
	pods, err := u.api.Resource(podResource).Namespace(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, 0, fmt.Errorf("list the agents' pods: %w", err)
	}
	phases, err := u.phases(ctx)
	if err != nil {
		return nil, 0, err
	}
	nodes := map[string]bool{} // whether it is clean
	for i := range pods.Items {
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(pods.Items[i].Object, &pod); err != nil {
			return nil, 0, fmt.Errorf("read pod %s: %w", pods.Items[i].GetName(), err)
		}
		node := pod.Spec.NodeName
		phase, published := phases[node]
		if node != "" && (published || started(&pod)) {
			nodes[node] = phase == nodestatus.PhaseCleaned
		}
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		if !nodes[node] {
			left = append(left, node)
		}
	}
	return left, len(nodes), nil
}

// phases are what the nodes' agents say of themselves.
func (u *uninstall) phases(ctx context.Context) (map[string]string, error) {
	list, err := u.api.Resource(nodestatus.NodeResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list WeirNodes: %w", err)
	}
	phases := map[string]string{}
	for i := range list.Items {
		var node nodestatus.WeirNode
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &node); err != nil {
			return nil, fmt.Errorf("read WeirNode %s: %w", list.Items[i].GetName(), err)
		}
		phases[node.Name] = node.Status.Phase
	}
	return phases, nil
}

// started says whether a container of the pod has ever run.
func started(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil || c.RestartCount > 0
	})
}
