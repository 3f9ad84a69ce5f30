package main

import (
	"context"
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// What the Kustomization of the document checks. Its expressions are those of every kind.
func healthChecks(kustomization string) (kustomize.CustomHealthCheck, error) {
	var read struct {
		Spec struct {
			HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(kustomization), &read); err != nil {
		return kustomize.CustomHealthCheck{}, err
	}
	if found := len(read.Spec.HealthCheckExprs); found != 1 {
		return kustomize.CustomHealthCheck{}, fmt.Errorf("the Kustomization has %d health checks, expected is one", found)
	}
	return read.Spec.HealthCheckExprs[0], nil
}

// The verdict of Flux, read as its controller reads it. An expression that fails makes an object Unknown, and Flux goes
// on waiting; only that there is no status yet may have this effect.
func flux(check kustomize.CustomHealthCheck, object map[string]any) (verdict, error) {
	read := &unstructured.Unstructured{Object: object}
	check.Kind = read.GetKind()
	reader, err := cel.NewStatusReader([]kustomize.CustomHealthCheck{check})
	if err != nil {
		return "", err
	}
	found, err := reader(nil).ReadStatusForObject(context.Background(), nil, read)
	if err != nil {
		return "", err
	}
	if _, hasStatus := object["status"]; found.Status == status.UnknownStatus && !hasStatus {
		return waits, nil
	}
	return ofStatus(found.Status, found.Error)
}

// The verdict of kstatus by itself, which is that of Flux without expressions.
func kstatus(object map[string]any) (verdict, error) {
	found, err := status.Compute(&unstructured.Unstructured{Object: object})
	if err != nil {
		return "", err
	}
	return ofStatus(found.Status, nil)
}

func ofStatus(found status.Status, err error) (verdict, error) {
	switch found {
	case status.CurrentStatus:
		return serves, err
	case status.InProgressStatus:
		return waits, err
	case status.FailedStatus:
		return refused, err
	}
	return "", fmt.Errorf("%s: %w", found, err)
}
