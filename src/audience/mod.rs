//! Who may be written to: contacts, lists, consent, suppression, and the import of CSV files.
