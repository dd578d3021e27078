"""The TechCare Report API: our own client contract (docs/techcare-report.md) over HTTP."""
