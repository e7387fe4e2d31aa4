//! Campaigns as files: definition, lifecycle, schedule and plan.
