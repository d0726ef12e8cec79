-- Every object of the schema $1, by `KIND NAME`, as PostgreSQL would write it.
WITH tables AS (
    SELECT c.oid, c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relrowsecurity, c.reloptions
    FROM pg_class c WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
)
SELECT 'table ' || t.relname AS name, concat_ws(' ', t.relkind, t.relpersistence, t.relrowsecurity) AS text FROM tables t
UNION ALL
SELECT 'options ' || t.relname, t.reloptions::text FROM tables t WHERE t.reloptions IS NOT NULL
UNION ALL
SELECT 'column ' || t.relname || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN a.attidentity <> '' THEN 'identity ' || a.attidentity::text END,
                 CASE WHEN a.attgenerated <> '' THEN 'generated ' ELSE 'default ' END || pg_get_expr(d.adbin, d.adrelid))
FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint ' || t.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid
UNION ALL
SELECT 'index ' || i.relname, pg_get_indexdef(i.oid)
FROM tables t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
UNION ALL
SELECT 'trigger ' || t.relname || '.' || g.tgname, pg_get_triggerdef(g.oid)
FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
UNION ALL
SELECT 'rule ' || t.relname || '.' || r.rulename, pg_get_ruledef(r.oid)
FROM tables t JOIN pg_rewrite r ON r.ev_class = t.oid WHERE t.relkind IN ('r', 'p')
UNION ALL
SELECT 'type ' || e.typname, (SELECT string_agg(l.enumlabel, ' ' ORDER BY l.enumsortorder) FROM pg_enum l WHERE l.enumtypid = e.oid)
FROM pg_type e WHERE e.typnamespace = $1::text::regnamespace AND e.typtype = 'e'
UNION ALL
SELECT 'sequence ' || s.relname, concat_ws(' ', format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmax, q.seqcycle)
FROM pg_class s JOIN pg_sequence q ON q.seqrelid = s.oid WHERE s.relnamespace = $1::text::regnamespace
UNION ALL
SELECT 'function ' || p.proname, pg_get_function_identity_arguments(p.oid)
FROM pg_proc p WHERE p.pronamespace = $1::text::regnamespace
