"""The lab under attack: damage, kills and concurrency, by the thousand (docs/reliability.md)."""
