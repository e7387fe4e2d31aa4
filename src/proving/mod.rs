//! What users and we test and measure with: receiver, invented people, demo, bench. Nothing below knows it.
