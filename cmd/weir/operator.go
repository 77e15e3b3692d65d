// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/weirnet/weir/k8s"
	kstatus "github.com/weirnet/weir/k8s/status"
	"github.com/weirnet/weir/metrics"
)

const operatorHelp = `Usage: weir operator [--kubeconfig FILE] [--namespace NS] [flags]

Tells, for each policy of a cluster, on how many nodes which generation of it is enforced, and why not on others: as a
PolicyStatus (or ClusterPolicyStatus) object, as the condition Enforced of the policy's own status where the kind has one, and
as Events on the policy. It reads what the nodes' agents publish; enforcement does not need it.

Several may run: they elect the one that works by a Lease.

--metrics-addr serves /metrics, /healthz (200 while the operator is alive) and /readyz (200 if it knows the cluster, or stands
by).

Flags:
`

const (
	leaseName     = "weir-operator"
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second

	serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	operatorQPS             = 60
)

// operatorConfig is what the flags say.
type operatorConfig struct {
	kubeconfig, namespace string
	nodes                 labels.Selector
	conditions            string
	metricsAddr           string
	log                   logConfig
}

func parseOperator(args []string, output io.Writer) (operatorConfig, error) {
	set := flag.NewFlagSet("weir operator", flag.ContinueOnError)
	set.SetOutput(output)
	set.Usage = func() {
		fmt.Fprint(set.Output(), operatorHelp)
		set.PrintDefaults()
	}
	kubeconfig := set.String("kubeconfig", "", "`FILE` that says how to reach the API server; default: as a pod of the cluster does")
	namespace := set.String("namespace", "", "`NAMESPACE` of the Lease; default: $POD_NAMESPACE, else that of the pod's service account")
	nodes := set.String("nodes", "kubernetes.io/os=linux", "label `SELECTOR` of the nodes that weir is meant to run on; those that report count as well")
	conditions := set.String("conditions", kstatus.ConditionsAuto, "`MODE`: write Enforced into the status of cilium.io policies: auto (where the CRDs are ours), always, never (nor into that of others)")
	metricsAddr := set.String("metrics-addr", "127.0.0.1:9470", "address of /metrics, /healthz and /readyz, `ADDR`; empty: none")
	logFormat := set.String("log-format", "text", "`FORMAT`: text or json")
	logLevel := set.String("log-level", "info", "`LEVEL`: debug, info, warn or error")
	if err := set.Parse(args); err != nil {
		return operatorConfig{}, err
	}
	c := operatorConfig{kubeconfig: *kubeconfig, namespace: *namespace, conditions: *conditions, metricsAddr: *metricsAddr, log: logConfig{format: *logFormat}}
	var errs []error
	if set.NArg() > 0 {
		errs = append(errs, fmt.Errorf("read flags: unexpected argument %q", set.Arg(0)))
	}
	var err error
	if c.nodes, err = labels.Parse(*nodes); err != nil {
		errs = append(errs, fmt.Errorf("read flags: --nodes %q: %w", *nodes, err))
	}
	for _, choice := range []struct {
		name, value string
		options     []string
	}{{"conditions", c.conditions, []string{kstatus.ConditionsAuto, kstatus.ConditionsAlways, kstatus.ConditionsNever}}, {"log-format", c.log.format, []string{"text", "json"}}} {
		if !slices.Contains(choice.options, choice.value) {
			errs = append(errs, fmt.Errorf("read flags: --%s %q: want %s", choice.name, choice.value, strings.Join(choice.options, " or ")))
		}
	}
	if err := c.log.level.UnmarshalText([]byte(*logLevel)); err != nil {
		errs = append(errs, fmt.Errorf("read flags: --log-level %q: want debug, info, warn or error", *logLevel))
	}
	if _, _, err := net.SplitHostPort(c.metricsAddr); err != nil && c.metricsAddr != "" {
		errs = append(errs, fmt.Errorf("read flags: --metrics-addr %q: want HOST:PORT", c.metricsAddr))
	}
	if c.namespace == "" {
		if c.namespace = podNamespace(); c.namespace == "" {
			errs = append(errs, errors.New("read flags: --namespace is missing, and this is no pod of a cluster"))
		}
	}
	return c, errors.Join(errs...)
}

// podNamespace is the namespace of the pod that this is; empty if it is none.
func podNamespace() string {
	if namespace := os.Getenv("POD_NAMESPACE"); namespace != "" {
		return namespace
	}
	data, _ := os.ReadFile(serviceAccountNamespace)
	return strings.TrimSpace(string(data))
}

// runOperator is the verb operator. Exit code 0 after SIGTERM, 1 if it cannot go on (another one may), 2 if it was called wrongly.
func runOperator(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	cfg, err := parseOperator(args, helpOutput(args, stdout, stderr))
	if errors.Is(err, flag.ErrHelp) {
		return exitFine
	}
	if err != nil {
		fmt.Fprintf(stderr, "weir operator: %v\n", err)
		return exitUsage
	}
	log := cfg.log.logger(stderr)
	klog.SetSlogLogger(log)
	if err := serveOperator(ctx, cfg, log); err != nil {
		log.Error("operator ended", "error", err)
		return exitFailed
	}
	log.Info("operator stopped")
	return exitFine
}

// serveOperator works, or stands by, until ctx ends. An operator that loses its Lease ends: what it knows may be old.
func serveOperator(ctx context.Context, cfg operatorConfig, log *slog.Logger) error {
	api, err := k8s.APIConfig(cfg.kubeconfig, "weir-operator/"+version())
	if err != nil {
		return err
	}
	api.QPS, api.Burst = operatorQPS, 2*operatorQPS
	clients, err := operatorClients(api)
	if err != nil {
		return fmt.Errorf("make clients of the API server: %w", err)
	}
	host, _ := os.Hostname()
	instance := fmt.Sprintf("%s-%d", host, os.Getpid())

	o := &operator{}
	o.metrics = metrics.NewOperator(o.fleet, version())
	if cfg.metricsAddr != "" {
		stop, err := o.listen(cfg.metricsAddr, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: leaseName, Namespace: cfg.namespace}, Client: clients.Core.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: instance},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: leaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				log.Info("this operator leads", "instance", instance)
				works := kstatus.NewOperator(kstatus.OperatorConfig{Clients: clients, Instance: instance, Nodes: cfg.nodes, Conditions: cfg.conditions, Observer: o.metrics, Log: log})
				o.leader.Store(works)
				o.metrics.Leads(true)
				if err := works.Run(ctx); err != nil {
					cancel(err)
				}
			},
			OnStoppedLeading: func() { o.metrics.Leads(false) },
			OnNewLeader: func(leader string) {
				if leader != instance {
					log.Info("standing by", "leader", leader)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("elect the operator that works: %w", err)
	}
	elector.Run(ctx)
	if cause := context.Cause(ctx); cause == nil {
		return errors.New("another operator has taken the Lease, or it could not be renewed")
	} else if !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func operatorClients(api *rest.Config) (c kstatus.Clients, err error) {
	if c.Objects, err = dynamic.NewForConfig(api); err != nil {
		return c, err
	}
	if c.Metadata, err = metadata.NewForConfig(api); err != nil {
		return c, err
	}
	c.Core, err = kubernetes.NewForConfig(api)
	return c, err
}

// operator is what the HTTP handlers ask.
type operator struct {
	metrics *metrics.Operator
	leader  atomic.Pointer[kstatus.Operator] // nil while another one works
}

func (o *operator) fleet() (metrics.Fleet, bool) {
	leader := o.leader.Load()
	if leader == nil || leader.Working() != nil {
		return metrics.Fleet{}, false
	}
	policies, nodes, silent, failing := leader.Counts()
	return metrics.Fleet{Policies: policies, Nodes: nodes, Silent: silent, Failing: failing}, true
}

// listen serves metrics and health; the returned function ends that.
func (o *operator) listen(addr string, log *slog.Logger) (stop func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", o.metrics.Handler())
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if leader := o.leader.Load(); leader != nil && leader.Silent() > beatTimeout {
			http.Error(w, fmt.Sprintf("the operator has hung for %v", leader.Silent().Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		leader := o.leader.Load()
		if leader == nil {
			fmt.Fprintln(w, "standing by")
		} else if err := leader.Working(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		} else {
			fmt.Fprintln(w, "ready")
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	log.Info("serving metrics", "address", listener.Addr().String())
	return func() { server.Close() }, nil
}
