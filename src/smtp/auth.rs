//! Login (RFC 4954).

use crate::config::Secret;

/// What we log in with.
#[derive(Debug, Clone, PartialEq)]
pub enum Login {
    /// A user name and a password: SCRAM-SHA-256, else PLAIN, else LOGIN.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A user name and an access token of OAuth: XOAUTH2.
    Token {
        /// The user name.
        user: String,
        /// The token, fresh.
        token: Secret,
    },
}
