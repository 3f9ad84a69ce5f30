//! Node and client agents: discovery, tunnels, tables to maps.
