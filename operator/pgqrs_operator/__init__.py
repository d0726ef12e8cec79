"""The operator of pgqrs: makes true what `PgqrsQueue` and `PgqrsWorker` resources declare, and injects sidecars."""
