"""What a run is worth: metrics, the report a person reads, the summary."""
