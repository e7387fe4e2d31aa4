//! The guard against being led inward.

use std::net::{IpAddr, Ipv6Addr};

/// Whether an address is none of a host on the Internet (RFC 6890): dialling it would reach us, our network, or
/// everybody. What a stranger named, in an MX record or a URL, must not lead there (C-07, H-09).
pub fn is_inward(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [a, b, ..] = four.octets();
            four.is_unspecified()
                || four.is_loopback()
                || four.is_private()
                || four.is_link_local()
                || four.is_multicast()
                || four.is_broadcast()
                || a == 0
                || a == 100 && (64..128).contains(&b)
                || a >= 240
        }
        IpAddr::V6(six) => match embedded(six) {
            Some(four) => is_inward(IpAddr::V4(four)),
            None => {
                six.is_unspecified()
                    || six.is_loopback()
                    || six.is_multicast()
                    || six.is_unique_local()
                    || six.is_unicast_link_local()
                    // Site-local, retired but still routed by some (RFC 3879).
                    || six.segments()[0] & 0xffc0 == 0xfec0
            }
        },
    }
}

/// The IPv4 address inside an IPv6 one: mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056). Dialling it dials that.
fn embedded(six: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = six.segments();
    let four = |high: u16, low: u16| std::net::Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(four(high, low)),
        [0x2002, high, low, ..] => Some(four(high, low)),
        _ => six.to_ipv4_mapped(),
    }
}
