//! Networks: ranges of addresses, as settings name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network, as in "10.0.0.0/8", or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads a network or an address; `None` for anything else.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Network { address, bits })
    }

    /// The network of so many bits, by version of the protocol, that an address is in.
    pub fn around(address: IpAddr, v4: u8, v6: u8) -> Network {
        match address.to_canonical() {
            IpAddr::V4(one) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
                Network { address: Ipv4Addr::from_bits(one.to_bits() & mask).into(), bits: v4 }
            }
            IpAddr::V6(one) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
                Network { address: Ipv6Addr::from_bits(one.to_bits() & mask).into(), bits: v6 }
            }
        }
    }

    /// Whether an address belongs to it.
    pub fn holds(&self, other: IpAddr) -> bool {
        let shared =
            |one: u128, other: u128, width: u32| self.bits == 0 || (one ^ other) >> (width - u32::from(self.bits)) == 0;
        match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => shared(one.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(one), IpAddr::V6(other)) => shared(one.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_hold_what_is_in_them() {
        for (text, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(Network::parse(text).unwrap().holds(address.parse().unwrap()), holds, "{text} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "proxy.example.com", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_in_a_network_around_it() {
        for (address, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ] {
            let network = Network::around(address.parse().unwrap(), 24, 48);
            assert_eq!(network.to_string(), expected);
        }
        assert_eq!(Network::around("8.8.8.8".parse().unwrap(), 0, 0), Network::parse("0.0.0.0/0").unwrap());
    }
}
