package main

import "fmt"

// One connection, and whether it is to pass.
type flow struct {
	from, to string
	proto    string
	port     int
	passes   bool
	why      string
}

func (f flow) String() string {
	return fmt.Sprintf("%s → %s %d/%s (%s)", f.from, f.to, f.port, f.proto, f.why)
}

// What EPIC lives on, and what its policies must not open. What a proxy may reach beyond this is the fence's to say: a
// policy cannot tell endpoints from anything else.
var flows = []flow{
	{"proxy", "operator", "TCP", 18000, true, "xDS"},
	{"other proxy", "operator", "TCP", 18000, true, "xDS of another tenant"},
	{"operator", "api server", "TCP", 6443, true, "watches and writes"},
	{"operator", "dns", "UDP", 53, true, "names"},
	{"operator", "replica", "TCP", 8080, true, "whether the node reaches another"},
	{"uninstall", "api server", "TCP", 6443, true, "helm uninstall, and taking it back"},
	{"node", "operator", "TCP", 8080, true, "probes"},
	{"prometheus", "operator", "TCP", 8080, true, "scrapes"},
	{"node", "proxy", "TCP", 9901, true, "probes, and the drain"},
	{"prometheus", "proxy", "TCP", 9901, true, "scrapes"},
	{"client", "proxy", "TCP", 10000, true, "the first listener"},
	{"client", "proxy", "UDP", 10000, true, "the first listener"},
	{"client", "proxy", "TCP", 16383, true, "the last listener"},
	{"client", "proxy", "UDP", 16383, true, "the last listener"},
	{"tenant's shop", "proxy", "TCP", 10000, true, "a client in the cluster"},
	{"node", "proxy", "TCP", 10000, true, "a client behind a node"},
	{"client", "other proxy", "TCP", 10000, true, "another tenant's listener"},
	{"proxy", "endpoint", "TCP", 8080, true, "an alias"},
	{"proxy", "endpoint", "UDP", 53, true, "an alias"},
	{"proxy", "client", "UDP", 40000, true, "an answer whose flow nobody knows"},

	{"client", "operator", "TCP", 18000, false, "xDS is for proxies"},
	{"prometheus", "operator", "TCP", 18000, false, "xDS is for proxies"},
	{"tenant's pod", "operator", "TCP", 18000, false, "xDS is for proxies"},
	{"tenant's shop", "operator", "TCP", 18000, false, "a tenant's pod that is no proxy"},
	{"stranger", "operator", "TCP", 18000, false, "xDS is for proxies"},
	{"impostor", "operator", "TCP", 18000, false, "a proxy's label outside of tenants' namespaces"},
	{"client", "operator", "TCP", 8443, false, "no port of its"},
	{"client", "operator", "UDP", 8080, false, "no port of its"},
	{"prometheus", "uninstall", "TCP", 8080, false, "it serves nothing"},
	{"stranger", "api server", "TCP", 6443, false, "not the operator"},
	{"client", "stranger", "TCP", 8080, false, "not the operator"},
	{"client", "proxy", "TCP", 9902, false, "below the listeners"},
	{"client", "proxy", "TCP", 16384, false, "above the listeners"},
	{"client", "proxy", "UDP", 16384, false, "above the listeners"},
	{"client", "proxy", "UDP", 9901, false, "scrapes are TCP"},
	{"prometheus", "proxy", "TCP", 18000, false, "no port of its"},
	{"operator", "proxy", "TCP", 8080, false, "no port of its"},
	{"client", "tenant's pod", "TCP", 10000, false, "no proxy"},
	{"prometheus", "tenant's pod", "TCP", 9901, false, "no proxy"},
	{"proxy", "tenant's pod", "TCP", 10000, false, "no proxy"},
	{"other proxy", "tenant's pod", "TCP", 10000, false, "no proxy, and of another tenant"},
	{"tenant's pod", "proxy", "TCP", 10000, false, "the tenant's policies let it out, not EPIC's"},
	{"tenant's pod", "endpoint", "TCP", 8080, false, "the tenant's policies let it out, not EPIC's"},
	{"tenant's pod", "api server", "TCP", 6443, false, "the tenant's policies let it out, not EPIC's"},
}
