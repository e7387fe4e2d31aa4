//! The record of people, plans and outcomes: SQLite behind words of its callers. Owns the schema and every SQL statement; decides nothing.
