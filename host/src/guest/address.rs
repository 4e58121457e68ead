//! Which IP addresses a plugin may reach. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is refused; `None` = it may be connected to.
///
/// `private` allows private, loopback, link-local and the like (`fetch_private = true`); what is no host at all
/// (unspecified, multicast, broadcast, reserved) is refused even then.
pub(super) fn refusal(address: IpAddr, private: bool) -> Option<&'static str> {
    let class = classify(address)?;
    match class {
        Never(why) => Some(why),
        Private(_) if private => None,
        Private(why) => Some(why),
    }
}

enum Class {
    Never(&'static str),
    Private(&'static str),
}

use Class::{Never, Private};

fn classify(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

// The registry of special addresses: RFC 6890 and its successors at IANA.
fn classify_v4(address: Ipv4Addr) -> Option<Class> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => Never("an unspecified address"),
        (10, ..) | (192, 168, _) => Private("a private address"),
        (172, 16..=31, _) => Private("a private address"),
        (127, ..) => Private("a loopback address"),
        (169, 254, _) => Private("a link-local address (cloud metadata lives there)"),
        (100, 64..=127, _) => Private("a carrier-grade NAT address"),
        (198, 18..=19, _) => Private("a benchmarking address"),
        (192, 0, 0) => Private("a protocol assignment address"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Private("a documentation address"),
        (192, 88, 99) => Private("a 6to4 relay address"),
        // Azure's wire server: public by number, reachable from inside a virtual machine only.
        (168, 63, 129) if address == Ipv4Addr::new(168, 63, 129, 16) => Private("a cloud metadata address"),
        (224..=239, ..) => Never("a multicast address"),
        (240..=255, ..) => Never("a reserved address"),
        _ => return None,
    })
}

fn classify_v6(address: Ipv6Addr) -> Option<Class> {
    let s = address.segments();
    let [s0, s1, s2, _, _, s5, s6, s7] = s;
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    if address.is_unspecified() {
        return Some(Never("an unspecified address"));
    }
    if address.is_loopback() {
        return Some(Private("a loopback address"));
    }
    // Addresses that carry an IPv4 address are judged by it. Where nobody can say where the tunnel ends (6to4, Teredo),
    // a public one inside does not help.
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            return classify_v4(v4(s6, s7)).or(match s5 {
                0xffff => None,
                _ => Some(Private("an IPv4-compatible address")),
            });
        }
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => return classify_v4(v4(s6, s7)),
        [0x64, 0xff9b, 1, ..] => return Some(Private("a local NAT64 address")),
        [0x2002, ..] => return Some(classify_v4(v4(s1, s2)).unwrap_or(Private("a 6to4 address"))),
        [0x2001, 0, ..] => return Some(Private("a Teredo address")),
        _ => {}
    }
    Some(match s0 {
        0xfc00..=0xfdff => Private("a unique local address"),
        0xfe80..=0xfebf => Private("a link-local address"),
        0xfec0..=0xfeff => Private("a site-local address"),
        0xff00..=0xffff => Never("a multicast address"),
        0x100 => Never("a discard address"),
        0x2001 if s1 < 0x200 => Private("a protocol assignment address"),
        0x2001 if s1 == 0xdb8 => Private("a documentation address"),
        0x3fff if s1 < 0x1000 => Private("a documentation address"),
        0x5f00 => Private("a segment routing address"),
        // Only 2000::/3 is assigned as global unicast.
        0x2000..=0x3fff => return None,
        _ => Never("a reserved address"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]

    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        refusal(text.parse().unwrap(), false).is_some()
    }

    #[test]
    fn public_addresses_pass() {
        for ok in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "192.0.1.1",
            "198.20.0.1",
        ] {
            assert!(!refused(ok), "{ok}");
        }
    }

    #[test]
    fn everything_inside_is_refused() {
        for no in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:808:808::",
            "2001::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "100::1",
            "168.63.129.16",
        ] {
            assert!(refused(no), "{no}");
        }
    }

    #[test]
    fn a_grant_opens_private_but_never_multicast() {
        let ask = |t: &str| refusal(t.parse().unwrap(), true);
        assert_eq!(ask("127.0.0.1"), None);
        assert_eq!(ask("::1"), None);
        assert_eq!(ask("10.1.2.3"), None);
        assert!(ask("224.0.0.1").is_some());
        assert!(ask("0.0.0.0").is_some());
        assert!(ask("::").is_some());
        assert!(ask("::ffff:0.0.0.0").is_some());
    }

    proptest! {
        /// Wrapping an IPv4 address in IPv6 never opens what is closed.
        #[test]
        fn v4_inside_v6_is_judged_alike(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            if refusal(v4.into(), false).is_some() {
                let [a, b, c, d] = v4.octets();
                let (hi, lo) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                for v6 in [v4.to_ipv6_mapped(), Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, hi, lo), Ipv6Addr::new(0x2002, hi, lo, 0, 0, 0, 0, 1)] {
                    prop_assert!(refusal(v6.into(), false).is_some(), "{v6}");
                }
            }
        }
    }
}
