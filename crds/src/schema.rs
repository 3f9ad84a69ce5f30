//! Schemas of the scalar values that fields share.
//!
//! A field of type `String` says `#[schemars(with = "schema::Ip")]` and gets the pattern, the maximum and the CEL
//! rule that belong to the value. The types here exist only for their schema; nothing is ever of these types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

scalar!(
    /// An IPv4 or IPv6 address in canonical text form, without a zone.
    Ip,
    {
        "type": "string",
        "maxLength": 45,
        "x-kubernetes-validations": [{
            "rule": "isIP(self) && ip.isCanonical(self)",
            "message": "must be an IP address in canonical form, such as 192.0.2.7 or 2001:db8::7"
        }]
    }
);

scalar!(
    /// An IP address that EPIC itself wrote: bounded, but without a rule that every status write would pay for.
    GrantedIp,
    { "type": "string", "minLength": 2, "maxLength": 45, "pattern": "^[0-9a-f:.]+$" }
);

scalar!(
    /// A network in canonical CIDR form with no host bits set.
    Cidr,
    {
        "type": "string",
        "maxLength": 49,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self) && string(cidr(self).masked()) == self",
            "message": "must be a network in canonical CIDR form without host bits, such as 192.0.2.0/24 or 2001:db8::/64"
        }]
    }
);

scalar!(
    /// An IPv4 network in CIDR form with no host bits set.
    CidrV4,
    {
        "type": "string",
        "maxLength": 18,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self) && cidr(self).ip().family() == 4 && string(cidr(self).masked()) == self",
            "message": "must be an IPv4 network without host bits, such as 100.64.0.0/11"
        }]
    }
);

scalar!(
    /// An IPv6 network in CIDR form with no host bits set.
    CidrV6,
    {
        "type": "string",
        "maxLength": 43,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self) && cidr(self).ip().family() == 6 && string(cidr(self).masked()) == self",
            "message": "must be an IPv6 network without host bits, such as fd00:64::/64"
        }]
    }
);

scalar!(
    /// A network or a single address.
    CidrOrIp,
    {
        "type": "string",
        "maxLength": 49,
        "x-kubernetes-validations": [{
            "rule": "(isIP(self) && ip.isCanonical(self)) || (isCIDR(self) && string(cidr(self).masked()) == self)",
            "message": "must be an IP address or a network without host bits, such as 192.0.2.7 or 192.0.2.0/24"
        }]
    }
);

scalar!(
    /// A network, a range `first-last` of addresses of one family, or a single address.
    CidrOrRange,
    {
        "type": "string",
        "maxLength": 91,
        "x-kubernetes-validations": [{
            "rule": "self.contains('-') ? (self.split('-').size() == 2 && self.split('-').all(a, isIP(a) && ip.isCanonical(a)) && ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()) : (self.contains('/') ? isCIDR(self) && string(cidr(self).masked()) == self : isIP(self) && ip.isCanonical(self))",
            "message": "must be a network without host bits (192.0.2.0/24), a range of addresses of one family (192.0.2.10-192.0.2.20) or a single address (192.0.2.7), in canonical form"
        }]
    }
);

scalar!(
    /// Name of an object: a DNS subdomain.
    ObjectName,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
    }
);

scalar!(
    /// Name of an Account: a DNS label short enough for its namespace.
    AccountName,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 58,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    }
);

scalar!(
    /// Name of a namespace: a DNS label.
    NamespaceName,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    }
);

scalar!(
    /// UID of an object.
    Uid,
    { "type": "string", "minLength": 1, "maxLength": 64 }
);

scalar!(
    /// resourceVersion of an object; opaque.
    ResourceVersion,
    { "type": "string", "minLength": 1, "maxLength": 64 }
);

scalar!(
    /// Reference of a container image.
    Image,
    { "type": "string", "minLength": 1, "maxLength": 512, "pattern": "^[^\\s]+$" }
);

scalar!(
    /// Name of a network interface as Linux allows it.
    InterfaceName,
    { "type": "string", "minLength": 1, "maxLength": 15, "pattern": "^[^\\s/:]+$" }
);

scalar!(
    /// A pattern of names of network interfaces, alternative ones (which may be longer) included.
    InterfacePattern,
    { "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[^\\s/:]+$" }
);

scalar!(
    /// A hardware address as EPIC writes it.
    MacAddress,
    { "type": "string", "maxLength": 17, "pattern": "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$" }
);

scalar!(
    /// Value of a label; may be empty.
    LabelValue,
    { "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" }
);

scalar!(
    /// Key of a label, an annotation or a taint.
    LabelKey,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 317,
        "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
    }
);

scalar!(
    /// Value of an annotation.
    AnnotationValue,
    { "type": "string", "maxLength": 4096 }
);

scalar!(
    /// Memory of a proxy: a quantity of Kubernetes.
    ProxyMemory,
    {
        "type": "string",
        "maxLength": 16,
        "pattern": "^[1-9][0-9]*(Ki|Mi|Gi|k|M|G)?$",
        "x-kubernetes-validations": [{
            "rule": "!isQuantity(self) || (quantity(self).compareTo(quantity('128Mi')) >= 0 && quantity(self).compareTo(quantity('64Gi')) <= 0)",
            "message": "must be from 128Mi to 64Gi"
        }]
    }
);

scalar!(
    /// CPU of a proxy: a quantity of Kubernetes, in cores or thousandths of one.
    ProxyCpu,
    {
        "type": "string",
        "maxLength": 8,
        "pattern": "^([1-9][0-9]*m|[1-9][0-9]*([.][0-9]{1,3})?|0[.][0-9]{0,2}[1-9])$",
        "x-kubernetes-validations": [{
            "rule": "!isQuantity(self) || quantity(self).compareTo(quantity('64')) <= 0",
            "message": "must be at most 64"
        }]
    }
);

scalar!(
    /// Name of a port: an IANA service name.
    PortName,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    }
);

scalar!(
    /// Application protocol of a port: an IANA service name or a prefixed name such as `kubernetes.io/h2c`.
    AppProtocol,
    { "type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$" }
);

scalar!(
    /// A port number or the name of a port.
    IntOrString,
    {
        "x-kubernetes-int-or-string": true,
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? (self >= 1 && self <= 65535) : self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "message": "must be a port number from 1 to 65535 or the name of a port"
        }]
    }
);

scalar!(
    /// A duration as the Gateway API writes it, such as `5s` or `1h30m`.
    DurationText,
    { "type": "string", "maxLength": 32, "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" }
);

scalar!(
    /// A duration of at most an hour: a tenant chooses it, and for so long it keeps something alive.
    ShortDuration,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) <= duration('1h')",
            "message": "must be at most 1h"
        }]
    }
);

scalar!(
    /// How long a connection to an Endpoint may take to come about.
    ConnectTimeout,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) >= duration('10ms') && duration(self) <= duration('1m'))",
            "message": "must be from 10ms to 1m"
        }]
    }
);

scalar!(
    /// How long a connection may be silent; zero is for ever.
    IdleTimeout,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) == duration('0s') || (duration(self) >= duration('1s') && duration(self) <= duration('720h')))",
            "message": "must be from 1s to 720h, or 0s for never"
        }]
    }
);

scalar!(
    /// Time between two health checks: each proxy asks each Endpoint so often.
    CheckInterval,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) >= duration('1s') && duration(self) <= duration('10m'))",
            "message": "must be from 1s to 10m"
        }]
    }
);

scalar!(
    /// How long a health check may take.
    CheckTimeout,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) >= duration('100ms') && duration(self) <= duration('1m'))",
            "message": "must be from 100ms to 1m"
        }]
    }
);

scalar!(
    /// How long an Endpoint is taken out.
    EjectionTime,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))",
            "message": "must be from 1s to 1h"
        }]
    }
);

scalar!(
    /// How long a refused connection is kept open, which costs memory meanwhile.
    CloseDelay,
    {
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "x-kubernetes-validations": [{
            "rule": "!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || (duration(self) <= duration('10s'))",
            "message": "must be at most 10s"
        }]
    }
);

scalar!(
    /// Status of an HTTP answer.
    HttpStatus,
    { "type": "integer", "minimum": 100, "maximum": 599 }
);

scalar!(
    /// One line of text for people; no control characters, because terminals obey them.
    Line,
    { "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$" }
);

scalar!(
    /// Name of something outside of EPIC, such as a cluster.
    ForeignName,
    { "type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" }
);

scalar!(
    /// Path of an HTTP request.
    HttpPath,
    { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^/[!-~]*$" }
);

scalar!(
    /// A count as text, because an IPv6 pool holds more addresses than a number can say.
    CountText,
    { "type": "string", "minLength": 1, "maxLength": 40, "pattern": "^[0-9]+$" }
);

scalar!(
    /// A point in time, RFC 3339.
    Timestamp,
    { "type": "string", "format": "date-time" }
);
