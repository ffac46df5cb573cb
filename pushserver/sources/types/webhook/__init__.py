"""The type `webhook`: what services post to `/hooks/NAME`."""
