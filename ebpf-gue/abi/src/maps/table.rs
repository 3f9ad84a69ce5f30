//! The one declaration of all maps.

/// Hands the declaration of every map to the macro that is named: specifications, the maps of the object, the handles of the
/// loader and what the programs ask are all made of it.
///
/// A row is `SPEC field "pin": Kind<Key, Value>[entries], Side` and, where they apply, `, learned VERSION` (whose entries:
/// [`Home`](super::Home)) and `, room ROOM` (what the entries are in proportion to: [`Room`](super::Room)). The kinds are
/// those of [`MapKind`](super::MapKind); a `LazyHash` is a `Hash` that takes memory for the entries it has. Types are
/// named as in [`epic_abi::maps`](super) and [`epic_abi`](crate), and have to be in scope where the macro is used.
#[macro_export]
macro_rules! maps {
    ($with:ident) => {
        $with! {
            /// `layout`: index 0 → `LAYOUT_VERSION`. Written by the loader when it creates the maps, before
            /// anything else; read by the loader that adopts them.
            LAYOUT layout "layout": Array<u32, u32>[1], Both;
            /// `config`: 0 → [`Config`]. Written by the agent, read by every program. Without it everything EPIC's
            /// is dropped and everything else passes.
            CONFIG config "config": Hash<u32, Config>[1], Both;
            /// `locals`: an address of this host → [`Local`]. Written by the agent (node: its GUE addresses;
            /// client: the addresses its tunnels start from). GUE packets to other addresses are not ours and
            /// pass.
            LOCALS locals "locals": Hash<Ip, Local>[MAX_LOCALS], Both;
            /// `nodes`: GUE address of an EPIC node → [`Node`]. Written by the agent. Node: who may send with a
            /// node key (all other nodes). Client: who may send control messages.
            NODES nodes "nodes": LazyHash<Ip, Node>[MAX_NODES], Both;
            /// `keys`: [`Lb`] → [`LbKeys`]. Written by the agent, read on receipt, and for the legs between nodes
            /// also when sending.
            KEYS keys "keys": LazyHash<Lb, LbKeys>[MAX_LBS], Both, room LoadBalancers;
            /// `tunnels`: tunnel id → [`Tunnel`]. Written by the agent from desired state. On a client the key is
            /// the one its EPIC node accepts; everything needed to send but the far end.
            TUNNELS tunnels "tunnels": LazyHash<u32, Tunnel>[MAX_TUNNELS], Both, room Tunnels;
            /// `remotes`: tunnel id → [`Remote`]: where the other end was last heard. Written by the hello handler
            /// alone and never pruned by desired state, except together with its tunnel. On a client: written by
            /// its hello loop, once the EPIC node has answered.
            REMOTES remotes "remotes": LazyHash<u32, Remote>[MAX_TUNNELS], Both, learned 1, room Tunnels;
            /// `sources`: [`SourceKey`] → tunnel id: which tunnel an outer source stands for. The inverse of
            /// `remotes`, written by the same hand: first the new source, then the remote, then the old source
            /// goes.
            SOURCES sources "sources": LazyHash<SourceKey, u32>[MAX_TUNNELS * 2], Both, learned 1, room Tunnels;
            /// `tunnel_stats`: tunnel id → [`TunnelStats`] per CPU. The agent creates the entry (zero) before the
            /// tunnel and removes it after; programs count only where it exists.
            TUNNEL_STATS tunnel_stats "tunnel_stats": PerCpuHash<u32, TunnelStats>[MAX_TUNNELS],
                Both, learned 1, room Tunnels;
            /// `drops`: `DropReason` as u32 → packets per CPU. Written by programs.
            DROPS drops "drops": PerCpuArray<u32, u64>[DROPS_LEN as usize], Both, learned 1;
            /// `stats`: `Event` as u32 → packets per CPU. Written by programs.
            STATS stats "stats": PerCpuArray<u32, u64>[STATS_LEN as usize], Both, learned 1;
            /// `vips`: address → [`Vip`]. Written by the agent for every VIP whose packets may reach this node. A
            /// packet to a VIP that no service matches is dropped: passed on, it would come back.
            VIPS vips "vips": LazyHash<Ip, Vip>[MAX_LBS], Node, room LoadBalancers;
            /// `services`: [`ServiceKey`] → [`Service`]. Written by the agent.
            SERVICES services "services": LazyHash<ServiceKey, Service>[MAX_SERVICES], Node, room LoadBalancers;
            /// `source_ranges`: prefix length u32 and [`SourceRangeKey`] → [`SourceRange`]. Read for services that name a
            /// set, and for the sets of the cluster's own networks, which the agent writes.
            SOURCE_RANGES source_ranges "source_ranges": LpmTrie<SourceRangeKey, SourceRange>[MAX_SOURCE_RANGES],
                Node, room LoadBalancers;
            /// `maglev`: [`Lb`] → ARRAY of [`MAGLEV_SLOTS`] proxy ids (u32, 0 = none). The agent fills a new array
            /// and puts it in place as one update, so no packet meets half a table. Without an entry the
            /// LoadBalancer has no proxy that takes new flows.
            MAGLEV maglev "maglev": HashOfArrays<Lb, u32>[MAX_LBS], Node, room LoadBalancers;
            /// `flows`: [`FlowKey`] → [`Flow`]. Written by `epic_ingress` when a flow begins, never on its later
            /// packets. The agent never writes it; entries whose proxy is gone are ignored and overwritten.
            FLOWS flows "flows": LruHash<FlowKey, Flow>[MAX_FLOWS], Node, learned 1, room Flows;
            /// `flow_budget`: index 0 → [`FlowBudget`] per CPU; of `epic_ingress` alone.
            FLOW_BUDGET flow_budget "flow_budget": PerCpuArray<u32, FlowBudget>[1], Node;
            /// `proxies`: proxy id → [`Proxy`]. Written by the agent for every proxy of every LoadBalancer on
            /// every node, Ready or Draining.
            PROXIES proxies "proxies": LazyHash<u32, Proxy>[MAX_PROXIES], Node, room LoadBalancers;
            /// `local_proxies`: ifindex of the host side of a veth → [`LocalProxy`]. Written by the agent before
            /// it attaches `epic_from_proxy` there.
            LOCAL_PROXIES local_proxies "local_proxies": LazyHash<u32, LocalProxy>[MAX_LOCAL_PROXIES], Node;
            /// `listeners`: [`ListenerKey`] → [`Listener`]: which VIP and port a reply comes from. The inverse of
            /// `services`.
            LISTENERS listeners "listeners": LazyHash<ListenerKey, Listener>[MAX_SERVICES],
                Node, room LoadBalancers;
            /// `aliases`: [`AliasKey`] → [`Alias`]: where an alias really is. Written by the agent, after its
            /// tunnel.
            ALIASES aliases "aliases": LazyHash<AliasKey, Alias>[MAX_ENDPOINTS], Node, room Endpoints;
            /// `endp_aliases`: [`EndpointAliasKey`] → alias address: the way back. Written by the agent, before
            /// `aliases`.
            ENDPOINT_ALIASES endpoint_aliases "endp_aliases": LazyHash<EndpointAliasKey, Ip>[MAX_ENDPOINTS],
                Node, room Endpoints;
            /// `passes`: [`PassKey`] → [`Pass`]: destinations a proxy may reach without a tunnel. Written by the
            /// agent: the xDS Service for all ([`Lb`] zero), untunnelled endpoints for their LoadBalancer.
            PASSES passes "passes": LazyHash<PassKey, Pass>[MAX_ENDPOINTS], Node, room Endpoints;
            /// `routes`: proxy address → [`Route`]. Written by the agent from `status.proxies` of its
            /// LoadBalancers.
            ROUTES routes "routes": LazyHash<Ip, Route>[MAX_ROUTES], Client;
            /// `learned_proxies`: proxy address → [`LearnedProxy`]. Written by `epic_client_ingress` for proxies
            /// the agent has not announced yet (a packet of a new proxy may be faster than the API); never
            /// consulted where `routes` has the address.
            LEARNED_PROXIES learned_proxies "learned_proxies": LruHash<Ip, LearnedProxy>[MAX_ROUTES], Client;
            /// `endpoints`: [`EndpointKey`] → [`Endpoint`]. Written by the agent: the endpoints on this client
            /// node.
            ENDPOINTS endpoints "endpoints": LazyHash<EndpointKey, Endpoint>[MAX_CLIENT_ENDPOINTS], Client;
        }
    };
}
