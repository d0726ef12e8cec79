-- name: is_at_work
-- $1: the backend in question, $2: the backend that this connection was told it is. If the latter is not true, a pooler
-- stands between and the numbers are its own: nobody can tell. A backend that waits for its client while the client waits
-- for it (`ClientRead`, between the parts of the extended protocol) is as little at work as an idle one.
SELECT pg_backend_pid() <> $2::integer OR EXISTS (
    SELECT FROM pg_stat_activity
    WHERE pid = $1::integer
      -- Where the server does not track activities, being there is all that can be seen.
      AND (state = 'disabled' OR state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead')
)
