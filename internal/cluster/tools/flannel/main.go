// SPDX-License-Identifier: Apache-2.0

// Command flanneld is flannel's kube subnet manager, vxlan backend and iptables manager behind a short main: flannel's own
// imports every backend, and one of those needs a module that the Go proxy does not serve.
package main

import (
	"context"
	"flag"
	"log"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
)

func main() {
	kubeconfig := flag.String("kubeconfig-file", "", "")
	netconf := flag.String("net-config-path", "/etc/kube-flannel/net-conf.json", "")
	iface := flag.String("iface", "eth0", "")
	subnetFile := flag.String("subnet-file", "/run/flannel/subnet.env", "")
	ipMasq := flag.Bool("ip-masq", true, "")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	must := func(what string, err error) {
		if err != nil {
			log.Fatalf("%s: %v", what, err)
		}
	}
	sm, err := kube.NewSubnetManager(ctx, "", *kubeconfig, "flannel.alpha.coreos.com", *netconf, true)
	must("subnet manager", err)
	config, err := sm.GetNetworkConfig(ctx)
	must("network config", err)
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	must("ip family", err)
	ext, err := ipmatch.LookupExtIface(*iface, "", "", stack, ipmatch.PublicIPOpts{})
	must("iface", err)
	var wg sync.WaitGroup
	be, err := backend.NewManager(ctx, sm, ext).GetBackend(config.BackendType)
	must("backend", err)
	bn, err := be.RegisterNetwork(ctx, &wg, config)
	must("register", err)
	tm := &iptables.IPTablesManager{}
	must("iptables", tm.Init(ctx))
	if *ipMasq {
		must("masq", tm.SetupAndEnsureMasqRules(ctx, config.Network, ip.IP4Net{}, ip.IP4Net{}, config.IPv6Network, ip.IP6Net{}, ip.IP6Net{}, bn.Lease(), 5, false))
	}
	tm.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, 5)
	must("subnet file", sm.HandleSubnetFile(*subnetFile, config, *ipMasq, bn.Lease().Subnet, bn.Lease().IPv6Subnet, bn.MTU()))
	log.Print("flannel is ready")
	wg.Add(1)
	go func() { bn.Run(ctx); wg.Done() }()
	if err := sm.CompleteLease(ctx, bn.Lease(), &wg); err != nil {
		log.Print("lease: ", err)
	}
	wg.Wait()
}
