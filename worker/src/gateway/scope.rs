//! What a credential may do at a gateway, and what each method needs.

/// What we ask for: what the methods below need.
pub(super) const REQUESTED: &[&str] = &[READ, WRITE, ADMIN];

const READ: &str = "operator.read";
const WRITE: &str = "operator.write";
const ADMIN: &str = "operator.admin";

/// The scope that each method needs. One that is not listed needs none that is known here.
const NEEDED: &[(&str, &str)] = &[
    ("agent.wait", WRITE),
    ("agents.create", ADMIN),
    ("agents.delete", ADMIN),
    ("agents.files.delete", ADMIN),
    ("agents.files.get", READ),
    ("agents.files.list", READ),
    ("agents.files.set", ADMIN),
    ("agents.list", READ),
    ("agents.update", ADMIN),
    ("chat.abort", WRITE),
    ("chat.history", READ),
    ("chat.send", WRITE),
    ("config.get", READ),
    ("config.patch", ADMIN),
    ("config.set", ADMIN),
    ("sessions.delete", ADMIN),
    ("sessions.list", READ),
    ("sessions.messages.subscribe", READ),
    ("sessions.messages.unsubscribe", READ),
    ("sessions.patch", WRITE),
    ("sessions.reset", ADMIN),
    ("status", READ),
];

/// The scope that `method` needs and `granted` lacks.
pub(super) fn missing(method: &str, granted: &[String]) -> Option<&'static str> {
    let (_, needed) = NEEDED.iter().find(|(name, _)| *name == method)?;
    let has = |scope: &str| granted.iter().any(|granted| granted == scope);
    let enough = has(needed) || has(ADMIN) || (*needed == READ && has(WRITE));
    (!enough).then_some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_may_all_and_write_may_read() {
        let missing = |method, granted: &[&str]| {
            super::missing(method, &granted.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(missing("chat.send", &[ADMIN]), None);
        assert_eq!(missing("chat.history", &[WRITE]), None);
        assert_eq!(missing("chat.send", &[READ]), Some(WRITE));
        assert_eq!(missing("agents.create", &[READ, WRITE]), Some(ADMIN));
        assert_eq!(missing("chat.history", &[]), Some(READ));
        assert_eq!(missing("health", &[]), None);
    }

    #[test]
    fn the_table_is_in_order_and_asks_for_nothing_more() {
        assert!(NEEDED.is_sorted());
        assert!(NEEDED.iter().all(|(_, scope)| REQUESTED.contains(scope)));
    }
}
