//! How one app treats its clients, compiled from the snapshot: plain values, checked once. What is done with them is in the modules of
//! each feature.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use crate::snapshot::{AccessSpec, AppSpec, ClientAddressSpec, LimitsSpec};
use crate::tls::{Tls, TlsKept};

/// Prefixes of balancers of one app: a new flow is held against each of them.
const MAX_BALANCERS: usize = 256;

/// Access lists of one app.
const MAX_ACCESS_LISTS: usize = 64;

/// The largest DSCP, six bits.
const MAX_DSCP: u8 = 63;

/// How one app treats its clients.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    pub(crate) announce_tcp: AnnounceTcp,
    pub(crate) announce_udp: AnnounceUdp,
    /// Balancers whose word about the client's address is taken.
    pub(crate) accept_from: Vec<Prefix>,
    pub(crate) access: Access,
    /// None: as it came.
    pub(crate) dscp: Option<u8>,
    /// Which datagrams go over two paths.
    pub(crate) duplication: Duplication,
    /// UDP flows may move to another egress or origin when theirs is out of reach.
    pub(crate) rehome: bool,
    /// None: TLS passes through untouched.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) record_client: RecordClient,
}

impl Policy {
    /// Check what the snapshot says of an app; what is wrong names the field. `kept`: what its TLS was before.
    pub(crate) fn compile(spec: &AppSpec, kept: &TlsKept) -> Result<Self, String> {
        let (announce_tcp, announce_udp) = announcements(&spec.client_address)?;
        if spec.accept_client_address.len() > MAX_BALANCERS {
            let count = spec.accept_client_address.len();
            return Err(format!("accept_client_address: {count} prefixes, and {MAX_BALANCERS} are possible"));
        }
        let accept_from =
            spec.accept_client_address.iter().map(|text| Prefix::parse("accept_client_address", text));
        if let Some(dscp) = spec.dscp.filter(|&dscp| dscp > MAX_DSCP) {
            return Err(format!("dscp: {dscp} is more than {MAX_DSCP}"));
        }
        Ok(Self {
            limits: Limits::compile(&spec.limits)?,
            announce_tcp,
            announce_udp,
            accept_from: accept_from.collect::<Result<_, _>>()?,
            access: Access::compile(&spec.access)?,
            dscp: spec.dscp,
            duplication: Duplication::compile(&spec.duplication)?,
            rehome: spec.rehome,
            tls: spec.tls.as_ref().map(|tls| Tls::compile(spec, tls, kept)).transpose()?,
            record_client: RecordClient::compile(&spec.record_client)?,
        })
    }
}

impl Default for Policy {
    /// What an app has whose file says nothing.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            announce_tcp: AnnounceTcp::Off,
            announce_udp: AnnounceUdp::Off,
            accept_from: Vec::new(),
            access: Access { default_allow: true, lists: Vec::new() },
            dscp: None,
            duplication: Duplication::Off,
            rehome: false,
            tls: None,
            record_client: RecordClient::Full,
        }
    }
}

/// Which datagrams of an app go over two disjoint paths of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplication {
    /// None.
    Off,
    /// Those that would take a path which loses packets, and not by our own load.
    OnLoss,
    /// All.
    Always,
}

impl Duplication {
    fn compile(word: &str) -> Result<Self, String> {
        match word {
            "off" => Ok(Self::Off),
            "on-loss" => Ok(Self::OnLoss),
            "always" => Ok(Self::Always),
            other => Err(format!("duplication: {other:?} is not known")),
        }
    }
}

/// How a TCP origin learns who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnnounceTcp {
    /// Not at all.
    Off,
    /// A PROXY header of version 1 comes first.
    ProxyV1,
    /// A PROXY header of version 2 comes first.
    ProxyV2,
    /// The connection comes from the client's own address.
    Transparent,
}

/// How a UDP origin learns who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnnounceUdp {
    /// Not at all.
    Off,
    /// Simple Proxy Protocol, before every datagram.
    Spp,
    /// A PROXY header of version 2 before the first datagram, and again when the origin has forgotten.
    ProxyV2First,
    /// A PROXY header of version 2 before every datagram.
    ProxyV2Every,
    /// Datagrams come from the client's own address.
    Transparent,
}

fn announcements(spec: &ClientAddressSpec) -> Result<(AnnounceTcp, AnnounceUdp), String> {
    let tcp = match spec.tcp.as_str() {
        "off" => AnnounceTcp::Off,
        "proxy-v1" => AnnounceTcp::ProxyV1,
        "proxy-v2" => AnnounceTcp::ProxyV2,
        "transparent" => AnnounceTcp::Transparent,
        other => return Err(format!("client_address.tcp: {other:?} is not known")),
    };
    let udp = match spec.udp.as_str() {
        "off" => AnnounceUdp::Off,
        "spp" => AnnounceUdp::Spp,
        "proxy-v2-first" => AnnounceUdp::ProxyV2First,
        "proxy-v2-every" => AnnounceUdp::ProxyV2Every,
        "transparent" => AnnounceUdp::Transparent,
        other => return Err(format!("client_address.udp: {other:?} is not known")),
    };
    Ok((tcp, udp))
}

/// What flow records say of a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordClient {
    /// All of it.
    Full,
    /// Its /24 or /48.
    Prefix,
    /// A keyed hash of it.
    Hash,
    /// Nothing.
    None,
}

impl RecordClient {
    fn compile(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "prefix" => Ok(Self::Prefix),
            "hash" => Ok(Self::Hash),
            "none" => Ok(Self::None),
            other => Err(format!("record_client: {other:?} is not known")),
        }
    }

    /// The word of the app file.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Prefix => "prefix",
            Self::Hash => "hash",
            Self::None => "none",
        }
    }
}

/// Caps and rates of one app at this PoP. None: only the engine's own caps apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    pub(crate) flows: u32,
    pub(crate) flows_per_source: u32,
    /// Length of the prefix that counts as one IPv6 client.
    pub(crate) source_prefix_v6: u8,
    pub(crate) new_flows_per_second: Option<NonZeroU32>,
    pub(crate) new_flows_per_second_per_source: Option<NonZeroU32>,
    /// Bytes a second, each direction by itself.
    pub(crate) bandwidth_per_flow: Option<NonZeroU64>,
    /// Bytes to a client that has not proved its address, per byte from it.
    pub(crate) amplification: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: u32::MAX,
            flows_per_source: u32::MAX,
            source_prefix_v6: 64,
            new_flows_per_second: None,
            new_flows_per_second_per_source: None,
            bandwidth_per_flow: None,
            amplification: None,
        }
    }
}

impl Limits {
    fn compile(spec: &LimitsSpec) -> Result<Self, String> {
        let rate = |name: &str, given: Option<u32>| {
            given.map(|count| NonZeroU32::new(count).ok_or_else(|| zero(name))).transpose()
        };
        if !(1..=128).contains(&spec.source_prefix_v6) {
            return Err(format!("limits.source_prefix_v6: {} is not from 1 to 128", spec.source_prefix_v6));
        }
        if let Some(factor) = spec.amplification.filter(|factor| !(factor.is_finite() && *factor > 0.0)) {
            return Err(format!("limits.amplification: {factor} is not a positive number"));
        }
        let bandwidth = spec.bandwidth_per_flow.map(NonZeroU64::new);
        Ok(Self {
            flows: spec.flows.unwrap_or(u32::MAX),
            flows_per_source: spec.flows_per_source.unwrap_or(u32::MAX),
            source_prefix_v6: spec.source_prefix_v6,
            new_flows_per_second: rate("new_flows_per_second", spec.new_flows_per_second)?,
            new_flows_per_second_per_source: rate(
                "new_flows_per_second_per_source",
                spec.new_flows_per_second_per_source,
            )?,
            bandwidth_per_flow: bandwidth
                .map(|rate| rate.ok_or_else(|| zero("bandwidth_per_flow")))
                .transpose()?,
            amplification: spec.amplification,
        })
    }
}

fn zero(name: &str) -> String {
    format!("limits.{name}: 0 passes nothing")
}

/// Who may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// What holds where no list says anything.
    pub(crate) default_allow: bool,
    pub(crate) lists: Vec<AccessList>,
}

/// One list: its contents come in frames of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccessList {
    pub(crate) allow: bool,
    pub(crate) id: u64,
}

impl Access {
    fn compile(spec: &AccessSpec) -> Result<Self, String> {
        if spec.lists.len() > MAX_ACCESS_LISTS {
            let count = spec.lists.len();
            return Err(format!("access.lists: {count} lists, and {MAX_ACCESS_LISTS} are possible"));
        }
        let list = |(index, list): (usize, &crate::snapshot::AccessListSpec)| match list.verdict.as_str() {
            "allow" => Ok(AccessList { allow: true, id: list.id }),
            "deny" => Ok(AccessList { allow: false, id: list.id }),
            other => Err(format!("access.lists[{index}].verdict: {other:?} is neither allow nor deny")),
        };
        let lists = spec.lists.iter().enumerate().map(list).collect::<Result<_, _>>()?;
        Ok(Self { default_allow: spec.default_allow, lists })
    }
}

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, String> {
        let wrong = || format!("{field}: {text:?} is no prefix");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if length > bits {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }

    /// Whether an address, IPv4 not mapped into IPv6, begins with these bits.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_its_bits() {
        for (prefix, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.7/32", "10.0.0.7", true),
            ("10.0.0.7/32", "10.0.0.6", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::/0", "2001:db8::1", true),
        ] {
            let found = Prefix::parse("f", prefix).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, is_in, "{address} in {prefix}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "::/-1", ""] {
            assert_eq!(Prefix::parse("f", text), Err(format!("f: {text:?} is no prefix")));
        }
    }
}
