"""Tests beside real parts from elsewhere: browsers, servers, schemas. `make parts` runs them."""
