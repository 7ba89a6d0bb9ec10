//! `errand keys create`: over REST, or straight on the database (the first key, a new tenant).

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use errand_common::{
    domain::ApiKeyId,
    port::store::{NewApiKey, Scope},
    wire::credential,
};
use serde_json::{Value, json};

use crate::{
    arguments::{ClientOptions, Global},
    client::{Client, Request},
    command::database,
    exit::Usage,
    screen::Screen,
    settings,
};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Whose key it is [default: the tenant of the key you call with; straight on the database, "default"]
    #[arg(long)]
    tenant: Option<String>,
    /// What people know it by
    #[arg(long, default_value = "cli")]
    name: String,
    /// What it may do, comma-separated: jobs:read, jobs:write, jobs:cancel, approve, admin, fleet
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = scope, default_value = "jobs:read,jobs:write,jobs:cancel,approve")]
    scopes: Vec<Scope>,
    /// Work straight on this database, without a server [default: the configured one, unless a URL is given]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

fn scope(name: &str) -> Result<Scope, String> {
    name.trim().parse().map_err(|_| {
        let known: Vec<_> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        format!("scopes are {}, with commas between them", known.join(", "))
    })
}

impl Create {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let body = match self.database(global)? {
            Some((config, url)) => self.on_database(&config, &url).await?,
            None => self.over_rest().await?,
        };
        if self.client.json {
            screen.line(body.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let answer: Value = serde_json::from_str(&body).context("the server's answer can't be read")?;
        let secret = ["key", "secret", "api_key"].into_iter().find_map(|name| answer.get(name)?.as_str());
        screen.line(secret.context("the server's answer holds no secret: the key was made before")?)?;
        screen.note("keep it: it is not shown again")?;
        Ok(ExitCode::SUCCESS)
    }

    /// The database to work on, if no server is asked for.
    fn database(&self, global: &Global) -> anyhow::Result<Option<(errand_common::config::Config, String)>> {
        if self.database_url.is_none() && self.client.url.is_some() {
            return Ok(None);
        }
        let config = settings::load(global)?;
        let url = database::url(self.database_url.as_deref(), &config);
        Ok(url.map(|url| (config, url)))
    }

    async fn over_rest(&self) -> anyhow::Result<String> {
        let mut body = json!({"name": self.name, "scopes": self.scopes});
        if let Some(tenant) = &self.tenant {
            body["tenant"] = tenant.as_str().into();
        }
        let client = Client::new(&self.client)?;
        Ok(client.send(Request::post("/api/v1/keys", Some(body))).await?.body)
    }

    async fn on_database(&self, config: &errand_common::config::Config, url: &str) -> anyhow::Result<String> {
        let tenant = self.tenant.clone().unwrap_or_else(|| "default".to_owned());
        if tenant.trim().is_empty() || tenant.len() > 128 {
            return Err(Usage("a tenant's name has 1 to 128 characters".to_owned()).into());
        }
        let backend = database::open_existing(config, url).await?;
        let secret = credential::generate_key();
        let key = NewApiKey {
            id: ApiKeyId::new(),
            tenant,
            name: self.name.clone(),
            prefix: credential::indexed_prefix(&secret).to_owned(),
            hash: credential::hash_key(&secret),
            scopes: self.scopes.clone(),
        };
        let answer = json!({
            "id": key.id, "tenant": key.tenant, "name": key.name, "prefix": key.prefix, "scopes": key.scopes, "key": secret,
        });
        backend.store.create_key(key, None, backend.clock.now()).await?;
        Ok(answer.to_string())
    }
}
