//! Secrets are sealed by the configured keys, or by one that the installation makes for itself once.

use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::GatewayId,
    vault::{Purpose, SealingKey, VaultError},
};

fn configured(keys: &[&str]) -> Config {
    let mut config = Config::default();
    config.secrets.keys = keys.iter().map(|key| Secret::new((*key).to_owned())).collect();
    config
}

#[tokio::test]
async fn what_was_sealed_opens_after_every_change_of_keys_but_the_loss_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("errand.db").display());
    let open = async |keys: &[&str]| Backend::open(&configured(keys), &url).await.unwrap().vault;
    let purpose = Purpose::GatewayToken(GatewayId::new());
    let by_made = open(&[]).await.seal(purpose, "one");
    assert_eq!(open(&[]).await.open(purpose, &by_made).as_deref(), Ok("one"), "it is made once");

    let (first, second) = (SealingKey::generate(), SealingKey::generate());
    let vault = open(&[&first]).await;
    assert_eq!(vault.open(purpose, &by_made).as_deref(), Ok("one"), "what was sealed before keys were configured");
    let by_first = vault.seal(purpose, "two");
    let vault = open(&[&second, &first]).await;
    assert_eq!(vault.open(purpose, &by_first).as_deref(), Ok("two"));
    let by_second = vault.seal(purpose, "three");
    let vault = open(&[&second]).await;
    assert_eq!(vault.open(purpose, &by_second).as_deref(), Ok("three"));
    assert!(matches!(vault.open(purpose, &by_first), Err(VaultError::UnknownKey(_))));
}
