// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// pods are the pod templates of a render by the name of their object.
func pods(t *testing.T, r rendered) map[string]corev1.PodSpec {
	t.Helper()
	out := map[string]corev1.PodSpec{}
	for _, o := range objects(t, r) {
		switch w := o.(type) {
		case *appsv1.DaemonSet:
			out[w.Name] = w.Spec.Template.Spec
		case *appsv1.Deployment:
			out[w.Name] = w.Spec.Template.Spec
		case *corev1.Pod:
			out[w.Name] = w.Spec
		case *batchv1.Job:
			out[w.Name] = w.Spec.Template.Spec
		}
	}
	return out
}

// No container of the chart's defaults is privileged, writes to its root, sees the host's processes, or gains a privilege.
func TestContainersAreConfined(t *testing.T) {
	for name, pod := range pods(t, install(t, "")) {
		if pod.HostPID || pod.HostIPC {
			t.Errorf("%s sees the host's processes", name)
		}
		if pod.SecurityContext == nil || pod.SecurityContext.SeccompProfile == nil || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s has no seccomp profile", name)
		}
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			s := c.SecurityContext
			if s == nil || s.Privileged == nil || *s.Privileged || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation {
				t.Errorf("%s %s: %+v", name, c.Name, s)
				continue
			}
			if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s %s drops %v", name, c.Name, s.Capabilities.Drop)
			}
			if name != "weir" && (len(s.Capabilities.Add) > 0 || pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot) {
				t.Errorf("%s %s is root, or has capabilities: %v", name, c.Name, s.Capabilities.Add)
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s %s has no memory limit or no CPU request", name, c.Name)
			}
		}
	}
}

// The reason of each capability stands beside it.
func TestEveryCapabilityHasAReason(t *testing.T) {
	template, err := os.ReadFile(filepath.Join(chartDir, "templates/agent/daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	agent := pods(t, install(t, ""))["weir"].Containers[0]
	if len(agent.SecurityContext.Capabilities.Add) == 0 {
		t.Error("the agent has no capability")
	}
	for _, c := range agent.SecurityContext.Capabilities.Add {
		if !strings.Contains(string(template), fmt.Sprintf("# %s: to ", c)) && !strings.Contains(string(template), fmt.Sprintf("# %s: the ", c)) {
			t.Errorf("templates/agent/daemonset.yaml gives no reason for %s", c)
		}
	}
}
