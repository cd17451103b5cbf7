-- Every planted value of this database and where it is, a line each.
SELECT DISTINCT line FROM (
    SELECT unnest(ARRAY['text users.token ' || token, 'text users.ssn ' || nullif(ssn, 'name2'), 'int users.pin ' || pin,
        'text users.blob ' || convert_from(blob, 'UTF8'), 'text users.prof ' || (prof ->> 'ssn')]) AS line FROM app.users
    UNION ALL SELECT 'text part.token ' || token FROM app.part
    UNION ALL SELECT 'text Users Q.Token ' || "Token" FROM app."Users Q"
    UNION ALL SELECT unnest(ARRAY['text members.badge ' || badge, 'text members.nick ' || nick, 'text members.tag ' || tag,
        'date members.born ' || born, 'int members.born ' || born - date '2000-01-01']) FROM app.members
    UNION ALL SELECT 'text gen.token ' || token FROM app.gen
    UNION ALL SELECT 'text wide.secret ' || secret FROM app.wide
) AS planted WHERE line IS NOT NULL ORDER BY 1;
