//! `errand doctor` looks at gateways as workers do.

use errand_common::{backend::Backend, config::Config};
use errand_tests::{Mode, Setup, fake_gateway::FakeGateway, postgres::Postgres, run::run};

use super::World;

#[test]
fn the_doctor_says_which_gateways_let_us_in() {
    run(async {
        let database = Postgres::shared().await.create_database().await.expect("a database");
        let errand = Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Cluster)
            .on_database(database.clone())
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .start()
            .await;
        let looks = || async {
            let output = errand.run_cli(&["doctor"]).await;
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(looks().await.contains("– gateways: none is registered"), "{}", looks().await);
        let (fake, other) = (FakeGateway::start().await, FakeGateway::start().await);
        let backend = Backend::join(&Config::default(), &database).await.expect("a database");
        World::introduce(&backend, &fake.url()).await;
        World::introduce(&backend, &other.url()).await;
        other.set_token("another");
        let said = looks().await;
        assert!(said.contains(&format!("✓ gateway default/fake: version fake answers at {}", fake.url())), "{said}");
        assert!(said.contains("✗ gateway default/fake: ") && said.contains("check its token"), "{said}");
        errand.finish().await;
    });
}
