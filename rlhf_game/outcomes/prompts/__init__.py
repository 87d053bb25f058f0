"""Games over system prompts: candidates are searched for, judged, and one is chosen for all groups."""
