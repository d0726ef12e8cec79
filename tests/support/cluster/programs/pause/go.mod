module pgqrs.io/tests/programs/pause

go 1.26.0
