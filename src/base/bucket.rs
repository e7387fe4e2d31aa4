//! Buckets: the shares in which a launch is planned, so that a provider that is down fills its own share and no other.

use crate::base::Domain;

/// How many buckets there are.
pub const BUCKETS: u8 = 64;

/// Mailbox providers so large that each has a bucket to itself, with the domains their users have addresses in. The place
/// in this list is the bucket, and contacts on record carry it: rows are only ever added, and only below.
const GIANTS: &[&[&str]] = &[
    &["gmail.com", "googlemail.com"],
    &["outlook.com", "hotmail.com", "live.com", "msn.com", "hotmail.co.uk", "hotmail.fr", "hotmail.de", "outlook.de"],
    &["yahoo.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de", "ymail.com", "rocketmail.com", "aol.com"],
    &["icloud.com", "me.com", "mac.com"],
    &["gmx.de", "gmx.net", "gmx.at", "gmx.ch", "web.de"],
    &["t-online.de", "magenta.de"],
    &["orange.fr", "wanadoo.fr"],
    &["mail.ru", "bk.ru", "list.ru", "inbox.ru"],
    &["qq.com", "foxmail.com"],
    &["163.com", "126.com", "yeah.net"],
    &["comcast.net"],
    &["libero.it", "virgilio.it"],
];

/// The bucket of a domain, below [`BUCKETS`]: that of its provider when it is a giant, else one of the others by hash. The
/// same in every version: contacts on record carry it.
pub fn bucket(domain: &Domain) -> u8 {
    let name = domain.as_str();
    match GIANTS.iter().position(|domains| domains.contains(&name)) {
        Some(giant) => giant as u8,
        None => FIRST_SHARED + (fnv1a(name) % u64::from(BUCKETS - FIRST_SHARED)) as u8,
    }
}

/// The buckets below this are the giants', now and later.
const FIRST_SHARED: u8 = 16;

/// FNV-1a of 64 bits: small, and the same for ever.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn bucket_of(name: &str) -> u8 {
        bucket(&Domain::parse(name).unwrap())
    }

    #[test]
    fn a_giants_domains_share_a_bucket_that_no_other_domain_has() {
        assert!(GIANTS.len() <= usize::from(FIRST_SHARED));
        assert_eq!(bucket_of("googlemail.com"), bucket_of("gmail.com"));
        assert_ne!(bucket_of("hotmail.com"), bucket_of("gmail.com"));
        let others: BTreeSet<u8> = (0..2000).map(|number| bucket_of(&format!("domain{number}.example"))).collect();
        assert_eq!(others.len(), usize::from(BUCKETS - FIRST_SHARED), "the others spread over all of theirs");
        assert!(others.iter().all(|bucket| (16..BUCKETS).contains(bucket)));
    }

    #[test]
    fn a_domain_keeps_its_bucket_from_version_to_version() {
        let known = ["gmail.com", "comcast.net", "example.com", "xn--bcher-kva.example"].map(bucket_of);
        assert_eq!(known, [0, 10, 54, 20]);
    }
}
