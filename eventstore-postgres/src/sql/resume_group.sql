DELETE FROM {schema}.paused_groups p WHERE p.name = $1::text
