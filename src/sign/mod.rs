//! DKIM: keys by domain, signatures, and the DNS records they need.
