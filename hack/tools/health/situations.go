package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// One object in one situation, and what a tool should make of it.
type situation struct {
	kind, name string
	// nil: the object has no status.
	conditions []any
	expected   verdict
}

const (
	generation = int64(3)
	stale      = generation - 1
	nowhere    = int64(-1)
)

// The object as an API server returns it: every number is an int64.
func (s situation) object() map[string]any {
	object := map[string]any{
		"apiVersion": "epic.acnodal.io/v1",
		"kind":       s.kind,
		"metadata":   map[string]any{"name": "web", "namespace": "epic-red", "generation": generation},
		"spec":       map[string]any{},
	}
	if s.conditions != nil {
		object["status"] = map[string]any{"conditions": s.conditions}
	}
	return object
}

// A condition as `Status Reason` of this generation; of none if that is nowhere.
func condition(kind, says string, observed int64) any {
	status, reason, _ := strings.Cut(says, " ")
	made := map[string]any{
		"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
	}
	if observed != nowhere {
		made["observedGeneration"] = observed
	}
	return made
}

// What is refused is no use waiting for; what lacks another object, or cannot serve yet, is. Of all else traffic flows.
var expected = map[string]map[verdict][]string{
	"LoadBalancer": {
		refused: {
			"its group does not admit the Account",
			"a field that has no effect yet is set",
			"a public port stands there twice",
			"beyond the Account's LoadBalancers",
			"beyond the Account's proxies",
			"an edit is refused while it serves",
		},
		waits: {
			"its namespace has no Account",
			"its group does not exist",
			"its group is not accepted",
			"waits for its service ID",
			"the service ID it asks for is taken",
			"no ID is left",
			"its parent hands out nothing",
			"its ID is granted twice",
			"no pool of the group can be used",
			"the address it asks for lies in no pool",
			"the address it asks for is taken",
			"the pools of its group are full",
			"its Account has as many addresses as it may have",
			"the proxies of its predecessor are not gone",
			"its proxies cannot be written",
			"its pods cannot be made, are not scheduled, or do not start",
			"no proxy is ready any more",
			"Envoy refuses the configuration in every new pod",
			"EPIC nodes have not programmed a new one yet",
		},
	},
	"Endpoint": {
		refused: {
			"a field that has no effect yet is set",
			"it matches no public port",
			"its address may not be an Endpoint's",
			"it has no node-address and may not be reached without tunnel",
			"an older one is the same",
			"its client node belongs to another cluster",
			"beyond the Account's Endpoints",
			"its LoadBalancer has as many client nodes as it can have",
			"its ID is granted twice",
		},
		waits: {
			"its namespace has no Account",
			"its LoadBalancer does not exist",
			"its LoadBalancer is not accepted",
			"waits for its alias",
			"no ID is left",
			"no proxy has acknowledged it yet",
			"its client node does not say hello",
		},
	},
	"EPIC": {
		refused: {
			"a range is no network, too small, or of the other address family",
			"a range overlaps another one, or what the cluster or a pool has",
		},
		waits: {
			"is being uninstalled",
			"is being deleted",
		},
	},
	"Account": {
		refused: {
			"lies in a namespace that is not its own",
			"namespace epic has one of its name",
		},
		waits: {
			"there is no EPIC object",
			"EPIC is not accepted",
			"its namespace holds objects of others",
			"its namespace is being deleted",
			"its rights or its quota are not in force yet",
			"an object of its namespace cannot be written",
			"no admission policy acts in its namespace",
			"waits for its group ID",
			"the group ID it asks for is taken",
			"no ID is left",
			"its ID is granted twice",
			"is being deleted",
			"the same, and LoadBalancers remain",
		},
	},
	"ServiceGroup": {
		refused: {
			"a field that has no effect yet is set",
			"a private one names an image",
			"a private one says where proxies run",
			"a pool that it names does not admit its Account",
		},
		waits: {
			"its namespace has no Account",
			"a pool that it names does not exist",
			"none of its pools is ready",
		},
	},
	"AddressPool": {
		refused: {
			"an entry is no network or range",
			"holds addresses of nodes, pods, Services or EPIC",
			"holds the default gateway of an EPIC node",
		},
		waits: {
			"is disabled",
		},
	},
}

// The situations of docs/conditions.md; each of `expected` must be among them.
func ofTable(table string) (found []situation, err error) {
	for kind, verdicts := range expected {
		of := map[string]verdict{}
		for verdict, names := range verdicts {
			for _, name := range names {
				of[name] = verdict
			}
		}
		_, section, _ := strings.Cut(table, "\n## "+kind+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		var rows [][]string
		for line := range strings.Lines(section) {
			if strings.HasPrefix(line, "|") {
				rows = append(rows, cells(line))
			}
		}
		if len(rows) < 3 {
			return nil, fmt.Errorf("docs/conditions.md has %d rows of %s", len(rows), kind)
		}
		titles := rows[0]
		for _, row := range rows[2:] {
			one := situation{kind: kind, name: row[0], expected: serves}
			for column := 1; column < len(row)-1; column++ {
				if row[column] != "–" {
					one.conditions = append(one.conditions, condition(titles[column], row[column], generation))
				}
			}
			if verdict, isListed := of[row[0]]; isListed {
				one.expected = verdict
				delete(of, row[0])
			}
			found = append(found, one)
		}
		if len(of) > 0 {
			return nil, fmt.Errorf("docs/conditions.md has no %s of which %v", kind, slices.Sorted(maps.Keys(of)))
		}
	}
	return found, nil
}

func cells(line string) (found []string) {
	for cell := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
		found = append(found, strings.ReplaceAll(strings.TrimSpace(cell), "`", ""))
	}
	return found
}

// What can be said of every kind, whatever it is for.
func ofEveryKind(kind string) (found []situation) {
	accepted := func(says string, observed int64) any { return condition("Accepted", says, observed) }
	ready := func(says string, observed int64) any { return condition("Ready", says, observed) }
	add := func(name string, expected verdict, conditions ...any) {
		found = append(found, situation{kind: kind, name: name, conditions: conditions, expected: expected})
	}
	add("has no status", waits)
	found = append(found, situation{kind: kind, name: "has no conditions", conditions: []any{}, expected: waits})
	add("is accepted, and nothing else is known", waits, accepted("True Accepted", generation))
	add("is ready", serves, accepted("True Accepted", generation), ready("True Ready", generation))
	add("is ready, in another order", serves, ready("True Ready", generation), accepted("True Accepted", generation))
	add("is ready, of no generation", serves, accepted("True Accepted", nowhere), ready("True Ready", nowhere))
	add("is not ready", waits, accepted("True Accepted", generation), ready("False Pending", generation))
	add("nobody knows whether it is ready", waits, accepted("True Accepted", generation), ready("Unknown Pending", generation))
	add("is refused", refused, accepted("False NotSupportedYet", generation), ready("False NotSupportedYet", generation))
	add("is refused, in another order", refused, ready("False NotSupportedYet", generation), accepted("False NotSupportedYet", generation))
	add("is refused, and ready all the same", refused, accepted("False NotSupportedYet", generation), ready("True Ready", generation))
	add("was ready before an edit", waits, accepted("True Accepted", stale), ready("True Ready", stale))
	add("was refused before an edit", waits, accepted("False NotSupportedYet", stale), ready("False NotSupportedYet", stale))
	add("an edit is accepted, and not in force", waits, accepted("True Accepted", generation), ready("True Ready", stale))
	add("an edit is refused", refused, accepted("False NotSupportedYet", generation), ready("True Ready", stale))
	add("is ready beside a condition that is not", serves,
		condition("Advertised", "False AnnouncementPending", generation), ready("True Ready", generation),
		condition("Overlaps", "True Overlaps", generation))
	for _, reason := range []string{
		"EpicNotReady", "AccountNotReady", "PoolNotFound", "GroupNotFound", "GroupNotAccepted", "LoadBalancerNotFound", "LoadBalancerNotAccepted",
	} {
		add("waits for another object, "+reason, waits, accepted("False "+reason, generation), ready("False "+reason, generation))
	}
	return found
}

// What docs/gitops.md says of kstatus: it knows Ready, and no status or one of before an edit is good enough.
func ofKstatus() []situation {
	ready := func(says string, observed int64) []any { return []any{condition("Ready", says, observed)} }
	return []situation{
		{kind: "LoadBalancer", name: "is ready", conditions: ready("True Ready", generation), expected: serves},
		{kind: "LoadBalancer", name: "is not ready", conditions: ready("False Pending", generation), expected: waits},
		{kind: "LoadBalancer", name: "nobody knows whether it is ready", conditions: ready("Unknown Pending", generation), expected: waits},
		{kind: "LoadBalancer", name: "has no status", expected: serves},
		{kind: "LoadBalancer", name: "was ready before an edit", conditions: ready("True Ready", stale), expected: serves},
	}
}
