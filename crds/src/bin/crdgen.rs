//! Writes everything that is generated from the API types.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for definition in epic_crds::definitions() {
        println!("---\n{}", serde_yaml::to_string(&definition)?);
    }
    Ok(())
}
