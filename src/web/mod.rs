//! Pages and the API for people and scripts.
