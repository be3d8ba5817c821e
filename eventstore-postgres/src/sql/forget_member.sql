DELETE FROM {schema}.handler_members m WHERE m.name = $1::text
