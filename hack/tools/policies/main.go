// The NetworkPolicies of EPIC, enforced in a cluster that denies by default.
//
//	epic-policies FILE…
//
// The files hold what the chart renders and what the operator writes for a tenant, as YAML or JSON. Pods of their labels
// and ports get addresses on the loopback interface of a network namespace, which this program expects to have for itself
// (unshare --net). The kernel asks about the first packet of each connection between two of them, and the evaluator of
// sigs.k8s.io/kube-network-policies answers, as on a cluster's node; whether the packet passed is what counts.
//
// Twice: with policies that deny everything, no flow of the table passes; with EPIC's beside them, just those pass that are
// to pass. Prints each flow that differs, and how many were tried.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

const (
	queue = 100
	// As long as a machine that is busy with other things may need.
	patience = 2 * time.Minute
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: epic-policies FILE…")
		os.Exit(2)
	}
	complaints, count, err := run(os.Args[1:])
	if err != nil {
		complaints = append(complaints, err.Error())
	}
	for _, complaint := range complaints {
		fmt.Fprintln(os.Stderr, "policies:", complaint)
	}
	if len(complaints) > 0 {
		os.Exit(1)
	}
	fmt.Println(count, "flows")
}

func run(files []string) (complaints []string, count int, err error) {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(flags)
	// It could not write its own rules on a kernel without nft_queue; those of prepare stand in their place.
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"})
	klog.SetOutput(os.NewFile(0, os.DevNull))

	found, err := read(files)
	if err != nil {
		return nil, 0, err
	}
	town, err := newTown(found)
	if err != nil {
		return nil, 0, err
	}
	if err := prepare(town); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	client := fake.NewSimpleClientset(town.objects()...)
	factory := informers.NewSharedInformerFactory(client, 0)
	policies := factory.Networking().V1().NetworkPolicies()
	controller, err := networkpolicy.NewController(client, policies, factory.Core().V1().Namespaces(),
		factory.Core().V1().Pods(), nil, nil, nil, nil, networkpolicy.Config{QueueID: queue, NodeName: "node1"})
	if err != nil {
		return nil, 0, err
	}
	// Applies these, and waits until the evaluator knows them.
	apply := func(list []*networking.NetworkPolicy) error {
		for _, policy := range list {
			if _, err := client.NetworkingV1().NetworkPolicies(policy.Namespace).Create(ctx, policy, meta.CreateOptions{}); err != nil {
				return err
			}
		}
		return eventually("the policies are known", func() bool {
			for _, policy := range list {
				if _, err := policies.Lister().NetworkPolicies(policy.Namespace).Get(policy.Name); err != nil {
					return false
				}
			}
			return true
		})
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	failed := make(chan error, 1)
	go func() { failed <- controller.Run(ctx) }()
	if err := answers(town, failed); err != nil {
		return nil, 0, err
	}

	try := func(when string, expected func(flow) bool) error {
		for _, one := range flows {
			passed, err := town.send(one)
			if err != nil {
				return fmt.Errorf("%s: %w", one, err)
			}
			if passed != expected(one) {
				complaints = append(complaints, fmt.Sprintf("%s, %s: passed is %t", when, one, passed))
			}
			count++
		}
		return nil
	}
	if err := apply(town.denials()); err != nil {
		return nil, 0, err
	}
	if err := try("all is denied", func(flow) bool { return false }); err != nil {
		return complaints, count, err
	}
	if err := apply(town.policies); err != nil {
		return complaints, count, err
	}
	err = try("EPIC's policies", func(one flow) bool { return one.passes })
	if known, _ := policies.Lister().List(labels.Everything()); err == nil && len(known) != len(town.denials())+len(town.policies) {
		err = fmt.Errorf("the evaluator knows %d policies", len(known))
	}
	return complaints, count, err
}

// Gives the loopback interface all addresses, and asks about each new connection.
func prepare(town *town) error {
	commands := []string{"ip link set lo up"}
	for _, place := range town.places {
		commands = append(commands, "ip address add "+place.address+"/32 dev lo")
	}
	commands = append(commands, fmt.Sprintf("iptables -A OUTPUT -m conntrack --ctstate NEW -j NFQUEUE --queue-num %d", queue))
	for _, command := range commands {
		words := strings.Fields(command)
		if said, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(said)))
		}
	}
	return nil
}

// Waits until packets are judged: one between two that no policy knows passes.
func answers(town *town, failed <-chan error) error {
	done := make(chan error, 1)
	go func() {
		passed, err := town.send(flow{from: "client", to: "router", proto: "TCP", port: 80})
		if err == nil && !passed {
			err = fmt.Errorf("a packet that no policy is about was dropped")
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case err := <-failed:
		return fmt.Errorf("the evaluator ended: %w", err)
	}
}

func eventually(what string, is func() bool) error {
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
	}
	return nil
}
