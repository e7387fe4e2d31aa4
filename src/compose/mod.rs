//! From edition and recipient to the bytes of one message. Pure: the same edition, envelope and recipient give the same bytes.
