"""`make compose-test`: docker-compose.yml on a real Docker Engine of its own, from the image's build to the fleet's end.

No image is pulled: there need not be a registry. The base image is made of Debian's Python, the store's of the server that
tierfleet brings itself; Prometheus, Grafana and RabbitMQ are checked as far as `docker compose config` goes, and no further.
"""
