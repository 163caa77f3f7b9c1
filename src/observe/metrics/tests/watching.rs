//! Alert rules and dashboard, against the page: every metric, label and value that they name is
//! there.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::exposition::{promtool, rich};
use super::*;

const ALERTS: &str = include_str!("../../../../config/alerts.yml");
const DASHBOARD: &str = include_str!("../../../../config/dashboard.json");

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["instance", "job", "alertname"];
/// Labels whose values are everybody's own.
const OWN: [&str; 8] = [
    "pool", "member", "service", "pair", "site", "worker", "server", "version",
];
/// Words of PromQL that are no metric.
const FUNCTIONS: [&str; 24] = [
    "sum",
    "max",
    "min",
    "avg",
    "count",
    "topk",
    "rate",
    "increase",
    "changes",
    "histogram_quantile",
    "time",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "bool",
    "clamp_min",
    "label_values",
    "offset",
];

/// Every series name of the page with its labels and their values.
struct Known(HashMap<String, HashMap<String, BTreeSet<String>>>);

/// Label, operator, value.
type Matcher = (String, String, String);

/// What an expression names.
#[derive(Debug, Default, PartialEq)]
struct Named {
    /// Metrics, each with its matchers.
    metrics: Vec<(String, Vec<Matcher>)>,
    /// Labels of `by`, `on` and the like.
    grouped: Vec<String>,
}

impl Known {
    fn new() -> Known {
        let mut known: HashMap<String, HashMap<String, BTreeSet<String>>> = HashMap::new();
        for key in series_of(&rich()).into_keys() {
            let (name, labels) = key.split_once('{').unwrap_or((&key, "}"));
            let of = known.entry(name.to_owned()).or_default();
            let labels = labels.strip_suffix('}').expect("a closing brace");
            for (label, value) in labels.split(',').filter_map(|one| one.split_once('=')) {
                let value = value.trim_matches('"').to_owned();
                of.entry(label.to_owned()).or_default().insert(value);
            }
        }
        known.insert("up".to_owned(), HashMap::new());
        Known(known)
    }

    /// What is wrong with an expression.
    fn faults(&self, expression: &str) -> Vec<String> {
        let named = named(expression);
        let mut faults = Vec::new();
        if named.metrics.is_empty() {
            faults.push(format!("it names no metric: {expression}"));
        }
        for (metric, matchers) in &named.metrics {
            let Some(labels) = self.0.get(metric) else {
                faults.push(format!("no metric {metric}"));
                continue;
            };
            for (label, operator, value) in matchers {
                if ADDED.contains(&label.as_str()) {
                    continue;
                }
                let Some(values) = labels.get(label) else {
                    faults.push(format!("{metric} has no label {label}"));
                    continue;
                };
                if OWN.contains(&label.as_str()) {
                    continue;
                }
                for value in value.split('|') {
                    if !values.contains(value) {
                        faults.push(format!("{metric} has no {label}{operator}{value:?}"));
                    }
                }
            }
        }
        for label in &named.grouped {
            let all = &named.metrics;
            let has = |metric: &String| self.0.get(metric).is_some_and(|l| l.contains_key(label));
            if !ADDED.contains(&label.as_str()) && !all.iter().any(|(metric, _)| has(metric)) {
                faults.push(format!("nothing in {expression} has the label {label}"));
            }
        }
        faults
    }

    /// Labels that what an expression gives may have.
    fn labels(&self, expression: &str) -> BTreeSet<String> {
        let named = named(expression);
        let of = named
            .metrics
            .iter()
            .filter_map(|(name, _)| self.0.get(name));
        let mut labels: BTreeSet<String> = of.flat_map(|l| l.keys().cloned()).collect();
        // An aggregation leaves what it is grouped by; a comparison leaves its left side's.
        let outermost = expression.trim_start_matches("histogram_quantile(0.95, ");
        if ["sum by", "count by"]
            .iter()
            .any(|by| outermost.starts_with(by))
        {
            labels = named.grouped.into_iter().collect();
        }
        labels.extend(ADDED.map(str::to_owned));
        labels
    }
}

/// Takes an expression apart: names, what is in braces after them, and lists of labels.
fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        if first == '[' {
            // A range.
            rest = rest.split_once(']').expect("a range ends").1;
        } else if first == '"' {
            panic!("a string outside of braces: {expression}");
        } else if first.is_ascii_digit() || first == '$' {
            rest = rest[1..].trim_start_matches(|c: char| is_of_word(c) || c == '.');
        } else if is_of_word(first) {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after.trim_start();
            if [
                "by",
                "without",
                "on",
                "ignoring",
                "group_left",
                "group_right",
            ]
            .contains(&word)
            {
                if let Some(list) = rest.strip_prefix('(') {
                    let (list, after) = list.split_once(')').expect("a list ends");
                    let labels = list.split(',').map(|label| label.trim().to_owned());
                    named
                        .grouped
                        .extend(labels.filter(|label| !label.is_empty()));
                    rest = after;
                }
            } else if !FUNCTIONS.contains(&word) {
                let mut matchers = Vec::new();
                if let Some(braces) = rest.strip_prefix('{') {
                    let (inside, after) = braces.split_once('}').expect("braces end");
                    matchers.extend(inside.split(',').map(matcher));
                    rest = after;
                }
                named.metrics.push((word.to_owned(), matchers));
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    named
}

fn matcher(text: &str) -> Matcher {
    let at = text.find(['=', '!']).expect("a matcher has an operator");
    let (label, rest) = text.split_at(at);
    let quote = rest.find('"').expect("a matcher has a value");
    let (operator, value) = rest.split_at(quote);
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let value = value.expect("the value is quoted");
    (
        label.trim().to_owned(),
        operator.to_owned(),
        value.to_owned(),
    )
}

/// Each rule of the file.
fn rules() -> Vec<Yaml> {
    let file = YamlLoader::load_from_str(ALERTS).expect("YAML");
    assert_eq!(file.len(), 1);
    let groups = file[0]["groups"].as_vec().expect("groups");
    let rules = groups.iter().map(|group| {
        assert!(group["name"].as_str().is_some());
        group["rules"].as_vec().expect("rules").clone()
    });
    rules.flatten().collect()
}

/// Each panel's and variable's expression.
fn queries(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dashboard];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("expr", Value::String(text)) => found.push(text.clone()),
                        ("definition", Value::String(text)) => found.push(text.clone()),
                        _ => open.push(value),
                    }
                }
            }
            Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    found
}

/// A variable's query asks for a label's values; its label is no metric.
fn without_variables(query: &str) -> String {
    let query = match query.strip_prefix("label_values(") {
        Some(inside) => {
            let inside = inside.strip_suffix(')').expect("closed");
            let (metric, label) = inside.rsplit_once(',').expect("a label");
            format!("count by ({}) ({metric})", label.trim())
        }
        None => query.to_owned(),
    };
    query.replace("$__rate_interval", "5m")
}

#[test]
fn an_expression_is_taken_apart() {
    let matcher = |label: &str, operator: &str, value: &str| {
        (label.to_owned(), operator.to_owned(), value.to_owned())
    };
    let expression = "sum by (pool, instance) (rate(a_total{x=\"1\", y=~\"p|q\"}[5m])) / on (job) \
                      group_left () b > 0.5 and time() - c_seconds >= 3e2";
    assert_eq!(
        named(expression),
        Named {
            metrics: vec![
                (
                    "a_total".to_owned(),
                    vec![matcher("x", "=", "1"), matcher("y", "=~", "p|q")]
                ),
                ("b".to_owned(), vec![]),
                ("c_seconds".to_owned(), vec![]),
            ],
            grouped: ["pool", "instance", "job"].map(str::to_owned).into(),
        }
    );
}

#[test]
fn what_is_not_on_the_page_is_found() {
    let known = Known::new();
    let condition = "twinpool_pool_condition";
    assert!(
        known
            .faults(&format!("{condition}{{condition=\"lost\"}} == 1"))
            .is_empty()
    );
    for wrong in [
        "twinpool_pool_conditions == 1".to_owned(),
        "twinpool_sessions_accepted".to_owned(),
        format!("{condition}{{condition=\"gone\"}} == 1"),
        format!("{condition}{{condition=~\"lost|gone\"}} == 1"),
        format!("{condition}{{state=\"lost\"}} == 1"),
        format!("sum by (member) ({condition})"),
        "1 > 0".to_owned(),
    ] {
        assert_eq!(known.faults(&wrong).len(), 1, "{wrong}");
    }
}

#[test]
fn every_alert_names_what_is_on_the_page_and_says_what_to_do() {
    let known = Known::new();
    let rules = rules();
    assert!(rules.len() >= 25, "{}", rules.len());
    let mut names = HashSet::new();
    for rule in &rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name), "{name} twice");
        let expression = rule["expr"].as_str().expect("an expression");
        assert_eq!(known.faults(expression), [""; 0], "{name}");
        let severity = rule["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("critical" | "warning" | "info")),
            "{name}"
        );
        let labels = known.labels(expression);
        for key in ["summary", "description"] {
            let text = rule["annotations"][key].as_str().expect(name);
            for used in text.split("$labels.").skip(1) {
                let end = used.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let label = &used[..end.unwrap_or(used.len())];
                assert!(labels.contains(label), "{name} has no label {label}");
            }
        }
        let description = rule["annotations"]["description"].as_str().expect(name);
        assert!(description.contains('`'), "{name} says no command or key");
    }
}

#[test]
fn commands_that_alerts_name_exist() {
    use clap::CommandFactory;
    let commands = crate::cli::CommandLine::command();
    let known: HashSet<&str> = commands.get_subcommands().map(|c| c.get_name()).collect();
    for rule in rules() {
        let text = rule["annotations"]["description"]
            .as_str()
            .unwrap()
            .to_owned();
        for named in text.split("`twinpool ").skip(1) {
            let word = named.split([' ', '`']).next().unwrap();
            assert!(known.contains(word), "there is no `twinpool {word}`");
        }
    }
}

#[test]
fn every_panel_and_variable_names_what_is_on_the_page() {
    let known = Known::new();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let queries = queries(&dashboard);
    assert!(queries.len() >= 30, "{}", queries.len());
    for query in queries {
        assert_eq!(known.faults(&without_variables(&query)), [""; 0], "{query}");
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .filter_map(|panel| panel["title"].as_str())
        .collect();
    assert_eq!(rows, ["Fleet", "Pools", "Members", "Pairs", "Instance"]);
    let ids: HashSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "an id twice");
}

#[test]
fn promtool_takes_the_rules_and_the_panels_expressions_and_the_rules_fire_as_they_should() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut panels = "groups:\n- name: panels\n  rules:\n".to_owned();
    for (n, query) in queries(&dashboard).iter().enumerate() {
        let expression = serde_json::to_string(&without_variables(query)).unwrap();
        panels += &format!("  - record: panel:{n}\n    expr: {expression}\n");
    }
    let folder = std::env::temp_dir().join(format!("twinpool-rules-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in [
        ("alerts.yml", ALERTS),
        ("panels.yml", &*panels),
        (
            "tests.yml",
            include_str!("../../../../tests/fixtures/alerts-tests.yml"),
        ),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    for arguments in [
        &["check", "rules", "alerts.yml", "panels.yml"][..],
        &["test", "rules", "tests.yml"],
    ] {
        if let Some(mut promtool) = promtool(arguments) {
            let output = promtool.current_dir(&folder).output().unwrap();
            let said = [&output.stdout[..], &output.stderr].concat();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&said)
            );
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
