-- A page: the first rows, up to the one with which their payloads reach {page_bytes} bytes.
--
-- The inner sum adds stored sizes, which the server reads without the payloads: so the outer sum decompresses at most a
-- page of compressed payloads. A stored size is at most 4 bytes larger than the payload, so the inner sum ends no page.
SELECT {record}{more_columns}
FROM (
    SELECT s.*, sum(octet_length(s.payload::text)) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        AS bytes_before
    FROM (
        SELECT r.*, sum(pg_column_size(r.payload)) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS stored_before
        FROM (
{rows}
        ) r
    ) s
    WHERE s.stored_before IS NULL OR s.stored_before < {stored_bytes}
) e
WHERE e.bytes_before IS NULL OR e.bytes_before < {page_bytes}
ORDER BY {order}
