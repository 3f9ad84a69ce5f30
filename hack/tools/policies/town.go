package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// What the files hold of interest.
type manifests struct {
	policies []*networking.NetworkPolicy
	// Templates of pods by the name of what makes them.
	pods map[string]core.PodTemplateSpec
	// Namespaces of tenants.
	tenant *core.Namespace
}

func read(files []string) (*manifests, error) {
	found := &manifests{pods: map[string]core.PodTemplateSpec{}}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
		for {
			var raw runtime.RawExtension
			if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if err := found.add(raw.Raw); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return found, nil
}

func (m *manifests) add(raw []byte) error {
	var kind meta.TypeMeta
	if len(raw) == 0 {
		return nil
	}
	if err := yaml.Unmarshal(raw, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "List":
		var list core.List
		if err := yaml.Unmarshal(raw, &list); err != nil {
			return err
		}
		for _, item := range list.Items {
			if err := m.add(item.Raw); err != nil {
				return err
			}
		}
	case "NetworkPolicy":
		policy := &networking.NetworkPolicy{}
		m.policies = append(m.policies, policy)
		return yaml.UnmarshalStrict(raw, policy)
	case "Namespace":
		m.tenant = &core.Namespace{}
		return yaml.Unmarshal(raw, m.tenant)
	case "Deployment":
		var deployment apps.Deployment
		err := yaml.Unmarshal(raw, &deployment)
		m.pods[deployment.Name] = deployment.Spec.Template
		return err
	case "Job":
		var job batch.Job
		err := yaml.Unmarshal(raw, &job)
		m.pods[job.Name] = job.Spec.Template
		return err
	}
	return nil
}

// A pod, or an address outside of the cluster's pods.
type place struct {
	address, namespace string
	template           core.PodTemplateSpec
}

// Two tenants, EPIC, and the rest of the world.
type town struct {
	places     map[string]place
	namespaces []*core.Namespace
	policies   []*networking.NetworkPolicy
}

const blue = "epic-blue"

func newTown(found *manifests) (*town, error) {
	if found.tenant == nil {
		return nil, fmt.Errorf("no file has a tenant's namespace")
	}
	red := found.tenant.Name
	pod := func(name string) core.PodTemplateSpec {
		template, isThere := found.pods[name]
		if !isThere {
			panic(fmt.Sprintf("no file has %s; there are %d pods", name, len(found.pods)))
		}
		return template
	}
	proxy := core.PodTemplateSpec{}
	for name, template := range found.pods {
		if strings.HasPrefix(name, "epic-web-") {
			proxy = template
		}
	}
	if len(proxy.Labels) == 0 {
		return nil, fmt.Errorf("no file has a proxy")
	}
	foreign := *proxy.DeepCopy()
	foreign.Labels["epic.acnodal.io/account"] = "blue"
	town := &town{
		places: map[string]place{
			"operator":      {"10.244.1.2", "epic", pod("epic-operator")},
			"replica":       {"10.244.2.2", "epic", pod("epic-operator")},
			"uninstall":     {"10.244.1.3", "epic", pod("epic-uninstall")},
			"stranger":      {"10.244.1.4", "epic", core.PodTemplateSpec{}},
			"proxy":         {"10.244.1.10", red, proxy},
			"tenant's pod":  {"10.244.1.11", red, labelled("epic.acnodal.io/account", "red")},
			"tenant's shop": {"10.244.1.12", red, labelled("app", "shop")},
			"other proxy":   {"10.244.2.10", blue, foreign},
			"impostor":      {"10.244.2.20", "default", proxy},
			"prometheus":    {"10.244.2.30", "monitoring", core.PodTemplateSpec{}},
			"dns":           {"10.244.2.40", "kube-system", core.PodTemplateSpec{}},
			// Not in the pods' network: the host, an alias of an endpoint, and clients.
			"api server": {address: "192.168.77.100"},
			"node":       {address: "192.168.77.101"},
			"endpoint":   {address: "100.64.0.1"},
			"client":     {address: "203.0.113.16"},
			"router":     {address: "203.0.113.254"},
		},
		policies: append(found.policies, letOut(red)),
	}
	other := found.tenant.DeepCopy()
	other.Name = blue
	other.Labels["epic.acnodal.io/account"] = "blue"
	town.namespaces = []*core.Namespace{found.tenant, other}
	for _, name := range []string{"epic", "default", "monitoring", "kube-system"} {
		town.namespaces = append(town.namespaces, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}})
	}
	for _, namespace := range town.namespaces {
		if namespace.Labels == nil {
			namespace.Labels = map[string]string{}
		}
		// The API server does.
		namespace.Labels["kubernetes.io/metadata.name"] = namespace.Name
	}
	for _, policy := range found.policies {
		if policy.Namespace == red {
			policy = policy.DeepCopy()
			policy.Namespace = blue
			town.policies = append(town.policies, policy)
		}
	}
	return town, nil
}

func labelled(key, value string) core.PodTemplateSpec {
	return core.PodTemplateSpec{ObjectMeta: meta.ObjectMeta{Labels: map[string]string{key: value}}}
}

// A tenant's own policy: its shop may connect to everything, so whether EPIC lets it in is EPIC's to say.
func letOut(namespace string) *networking.NetworkPolicy {
	return &networking.NetworkPolicy{
		ObjectMeta: meta.ObjectMeta{Name: "shop", Namespace: namespace},
		Spec: networking.NetworkPolicySpec{
			PodSelector: meta.LabelSelector{MatchLabels: map[string]string{"app": "shop"}},
			PolicyTypes: []networking.PolicyType{networking.PolicyTypeEgress},
			Egress:      []networking.NetworkPolicyEgressRule{{}},
		},
	}
}

func (t *town) objects() (objects []runtime.Object) {
	for _, namespace := range t.namespaces {
		objects = append(objects, namespace)
	}
	for name, place := range t.places {
		if place.namespace == "" {
			continue
		}
		pod := &core.Pod{
			ObjectMeta: meta.ObjectMeta{
				Name: strings.NewReplacer(" ", "-", "'", "").Replace(name), Namespace: place.namespace, Labels: place.template.Labels,
			},
			Spec: place.template.Spec,
			Status: core.PodStatus{
				Phase: core.PodRunning, PodIP: place.address, PodIPs: []core.PodIP{{IP: place.address}},
			},
		}
		pod.Spec.NodeName = "node1"
		// The API server does.
		for _, container := range pod.Spec.Containers {
			for n := range container.Ports {
				if container.Ports[n].Protocol == "" {
					container.Ports[n].Protocol = core.ProtocolTCP
				}
			}
		}
		objects = append(objects, pod)
	}
	return objects
}

// What denies everything, in every namespace.
func (t *town) denials() (policies []*networking.NetworkPolicy) {
	for _, namespace := range t.namespaces {
		// What others let out and in is theirs.
		if namespace.Name == "epic" || strings.HasPrefix(namespace.Name, "epic-") {
			policies = append(policies, &networking.NetworkPolicy{
				ObjectMeta: meta.ObjectMeta{Name: "default-deny", Namespace: namespace.Name},
				Spec: networking.NetworkPolicySpec{
					PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress},
				},
			})
		}
	}
	return policies
}

// Whether the first packet of the connection passes: it arrives, or the evaluator drops it.
func (t *town) send(one flow) (bool, error) {
	from, to := net.ParseIP(t.places[one.from].address), t.places[one.to].address
	network, target := strings.ToLower(one.proto), fmt.Sprintf("%s:%d", to, one.port)
	arrived, stop, err := listen(network, target)
	if err != nil {
		return false, err
	}
	defer stop()
	before, err := settled()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		knock(ctx, network, from, target)
		close(ended)
	}()
	passed := false
	var failure error
	err = eventually("it neither arrives nor is dropped", func() bool {
		select {
		case <-arrived:
			passed = true
			return true
		default:
		}
		var now verdicts
		now, failure = judged()
		return failure != nil || now.dropped > before.dropped
	})
	cancel()
	<-ended
	return passed, errors.Join(err, failure)
}

// Says when something has arrived at this address.
func listen(network, address string) (arrived <-chan struct{}, stop func(), err error) {
	heard := make(chan struct{})
	if network == "udp" {
		socket, err := net.ListenPacket(network, address)
		if err != nil {
			return nil, nil, err
		}
		go func() {
			if _, _, err := socket.ReadFrom(make([]byte, 1)); err == nil {
				close(heard)
			}
		}()
		return heard, func() { _ = socket.Close() }, nil
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		if connection, err := listener.Accept(); err == nil {
			_ = connection.Close()
			close(heard)
		}
	}()
	return heard, func() { _ = listener.Close() }, nil
}

// Opens a connection. What may be lost is sent again until there is no need: TCP does by itself.
func knock(ctx context.Context, network string, from net.IP, target string) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{IP: from}
	}
	connection, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		return
	}
	defer connection.Close()
	for network == "udp" {
		_, _ = connection.Write([]byte("x"))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// How many packets the evaluator let pass, and how many not.
type verdicts struct{ accepted, dropped int }

func judged() (found verdicts, err error) {
	families, err := prometheus.DefaultGatherer.Gather()
	for _, family := range families {
		if family.GetName() != "kube_network_policies_packet_count" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				switch label.GetName() + " " + label.GetValue() {
				case "verdict accept":
					found.accepted += int(metric.GetCounter().GetValue())
				case "verdict drop":
					found.dropped += int(metric.GetCounter().GetValue())
				}
			}
		}
	}
	return found, err
}

// The verdicts once every packet that the kernel has asked about has one.
func settled() (found verdicts, err error) {
	waited := eventually("every packet is judged", func() bool {
		var text []byte
		if text, err = os.ReadFile("/proc/net/netfilter/nfnetlink_queue"); err != nil {
			return true
		}
		// queue, peer, waiting, copy mode, copy range, dropped twice, packets so far
		asked := 0
		if fields := strings.Fields(string(text)); len(fields) > 7 {
			asked, _ = strconv.Atoi(fields[7])
		}
		found, err = judged()
		return err != nil || found.accepted+found.dropped >= asked
	})
	return found, errors.Join(waited, err)
}
