// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// APIConfig says how to reach the API server: by a kubeconfig file, or, if kubeconfig is empty, as a pod of the cluster does.
func APIConfig(kubeconfig, userAgent string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("find out how to reach the API server: %w", err)
	}
	config.UserAgent, config.WarningHandler = userAgent, rest.NoWarnings{}
	return config, nil
}
