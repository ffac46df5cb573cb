"""The type `webhook`: requests of other services to `/hooks/NAME`."""
