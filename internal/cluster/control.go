// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// control are the processes of the control plane.
type control struct {
	etcd, apiserver, controllers, scheduler *process
	controlDir                              string
}

// process is a running program of the control plane.
type process struct {
	name string
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

// Users of the cluster, each with a static token that is its name.
var users = map[string]string{ // name → user, groups
	"admin":      `admin,admin,"system:masters"`,
	"controller": `system:kube-controller-manager,controller`,
	"scheduler":  `system:kube-scheduler,scheduler`,
	"proxy":      `system:kube-proxy,proxy`,
	"flannel":    `flannel,flannel`,
}

const etcdURL = "http://127.0.0.1:2379"

func (c *Cluster) startControlPlane(ctx context.Context) error {
	c.controlDir = filepath.Join(c.Dir, "control")
	if err := os.MkdirAll(filepath.Join(c.controlDir, "certs"), 0o755); err != nil {
		return err
	}
	if err := errors.Join(c.writeCredentials(), os.WriteFile(c.controlFile("audit.yaml"), []byte(auditPolicy), 0o644)); err != nil {
		return err
	}
	// A crash of the machine may lose what was written: nobody minds, and fsync is slow on busy disks.
	etcd, err := c.startProcess("etcd", "--data-dir", filepath.Join(c.controlDir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL, "--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	c.etcd = etcd
	if err := c.awaitHealthy(ctx, etcd, etcdURL+"/health"); err != nil {
		return err
	}
	c.say("etcd answers")
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	c.say("apiserver is ready")
	if c.config.Nodes == 0 && !c.config.Controllers {
		return nil
	}
	return c.startControllers(ctx)
}

func (c *Cluster) startControllers(ctx context.Context) (err error) {
	common := []string{"--leader-elect=false", "--bind-address=127.0.0.1"}
	if c.controllers, err = c.startProcess("kube-controller-manager", append(common, "--kubeconfig="+c.kubeconfig("controller"),
		"--allocate-node-cidrs", "--cluster-cidr="+PodCIDR, "--service-cluster-ip-range="+ServiceCIDR,
		"--service-account-private-key-file="+c.controlFile("service-accounts.key"),
		"--root-ca-file="+c.controlFile("certs/apiserver.crt"), "--use-service-account-credentials=true")...); err != nil {
		return err
	}
	if c.scheduler, err = c.startProcess("kube-scheduler", append(common, "--kubeconfig="+c.kubeconfig("scheduler"))...); err != nil {
		return err
	}
	if err := c.awaitHealthy(ctx, c.controllers, "https://127.0.0.1:10257/healthz"); err != nil {
		return err
	}
	if err := c.awaitHealthy(ctx, c.scheduler, "https://127.0.0.1:10259/healthz"); err != nil {
		return err
	}
	c.say("controller-manager and scheduler are healthy")
	return nil
}

// StartAPIServer starts the apiserver and returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	key := c.controlFile("service-accounts.key")
	if c.apiserver, err = c.startProcess("kube-apiserver", "--etcd-servers="+etcdURL, "--cert-dir="+c.controlFile("certs"),
		"--secure-port=6443", "--bind-address=0.0.0.0", "--advertise-address="+APIServer, "--service-cluster-ip-range="+ServiceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--token-auth-file="+c.controlFile("tokens.csv"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file="+c.controlFile("audit.yaml"), "--audit-log-path="+c.controlFile("audit.log")); err != nil {
		return err
	}
	return c.awaitHealthy(ctx, c.apiserver, "https://"+APIServer+":6443/readyz")
}

// StopAPIServer kills the apiserver: connections break, as when the machine that it runs on fails.
func (c *Cluster) StopAPIServer() error {
	if c.apiserver == nil {
		return errors.New("stop apiserver: it does not run")
	}
	c.apiserver.kill()
	c.apiserver = nil
	return nil
}

func (c *control) close() {
	for _, p := range []**process{&c.controllers, &c.scheduler, &c.apiserver, &c.etcd} {
		if *p != nil {
			(*p).kill()
			*p = nil
		}
	}
}

func (c *Cluster) startProcess(name string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(filepath.Join(c.Tools.Kubernetes, name), args...), gone: make(chan struct{})}
	if err := c.logTo(p.cmd, name); err != nil {
		return nil, err
	}
	if err := c.Space.Start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		p.cmd.Stdout.(io.Closer).Close()
		close(p.gone)
	}()
	return p, nil
}

func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.gone
}

// awaitHealthy returns when a process says that it is fit for work, or has ended.
func (c *Cluster) awaitHealthy(ctx context.Context, p *process, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := poll(ctx, 100*time.Millisecond, func() error {
		select {
		case <-p.gone:
			cancel()
			return fmt.Errorf("%s has ended: %v", p.name, p.cmd.ProcessState)
		default:
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer admin")
		response, err := c.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("get %s: %s", url, response.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", p.name, err)
	}
	return nil
}

// writeCredentials makes the key of service accounts, everybody's token and everybody's kubeconfig.
func (c *Cluster) writeCredentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make key of service accounts: %w", err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(c.controlFile("service-accounts.key"), pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	var tokens strings.Builder
	write := func(name, user string) error {
		fmt.Fprintf(&tokens, "%s,%s\n", name, user)
		return c.WriteKubeconfig(c.kubeconfig(name), name)
	}
	for name, user := range users {
		if err := write(name, user); err != nil {
			return err
		}
	}
	for number := range c.config.Nodes {
		name := nodeName(number)
		if err := write(name, fmt.Sprintf(`system:node:%s,%s,"system:nodes"`, name, name)); err != nil {
			return err
		}
	}
	c.Kubeconfig = c.kubeconfig("admin")
	return os.WriteFile(c.controlFile("tokens.csv"), []byte(tokens.String()), 0o600)
}

// WriteKubeconfig writes a kubeconfig for the bearer of a token, a service account's for instance.
func (c *Cluster) WriteKubeconfig(path, token string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s:6443", certificate-authority: %q}}]
users: [{name: user, user: {token: %q}}]
contexts: [{name: lab, context: {cluster: lab, user: user}}]
current-context: lab
`, APIServer, c.controlFile("certs/apiserver.crt"), token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

func (c *Cluster) controlFile(name string) string { return filepath.Join(c.controlDir, name) }

func (c *Cluster) kubeconfig(user string) string { return c.controlFile(user + ".kubeconfig") }
